//! Where the good copies are, so that faults never damage the last one.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::sim::host::HostId;

/// A part of a file, or of all files below a path, on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copy {
    content: u64,
    host: HostId,
    path: PathBuf,
    range: Range<u64>,
    good: bool,
}

impl Copy {
    /// Whether they have a byte in common. A path stands for what lies below it too.
    fn meets(&self, host: HostId, path: &Path, range: &Range<u64>) -> bool {
        let below = self.path.starts_with(path) || path.starts_with(&self.path);
        self.host == host && below && self.range.start < range.end && range.start < self.range.end
    }
}

/// Which host holds which content where. A fault that takes bytes away for good, such as bit rot or a
/// misdirected write, asks first: what has no good copy on another host must not be damaged, or the test
/// would ask the impossible. On a single host nothing may be damaged, unless the test wants just that.
#[derive(Debug, Clone, Default)]
pub struct Atlas {
    copies: Vec<Copy>,
}

impl Atlas {
    /// Says that a host holds `content`, a number of the caller's choice, in a range of the file at
    /// `path`, or of the files below it. It is good until damaged.
    pub fn hold(
        &mut self,
        content: u64,
        host: HostId,
        path: impl Into<PathBuf>,
        range: Range<u64>,
    ) {
        let path = path.into();
        self.copies.retain(|copy| {
            (copy.content, copy.host, &copy.path, &copy.range) != (content, host, &path, &range)
        });
        self.copies.push(Copy {
            content,
            host,
            path,
            range,
            good: true,
        });
    }

    /// Forgets a content everywhere: it was deleted, and nobody asks for it any more.
    pub fn forget(&mut self, content: u64) {
        self.copies.retain(|copy| copy.content != content);
    }

    /// Whether a range may be damaged: each content in it has a good copy on another host. A range that
    /// nobody spoke of may not.
    pub fn may_damage(&self, host: HostId, path: &Path, range: &Range<u64>) -> bool {
        let mut here = self
            .copies
            .iter()
            .filter(|copy| copy.meets(host, path, range))
            .peekable();
        here.peek().is_some()
            && here.all(|copy| {
                self.copies
                    .iter()
                    .any(|other| other.content == copy.content && other.host != host && other.good)
            })
    }

    /// Takes note that a range is damaged, if it may be; otherwise says no and changes nothing.
    pub fn damage(&mut self, host: HostId, path: &Path, range: &Range<u64>) -> bool {
        let may = self.may_damage(host, path, range);
        let here = self.copies.iter_mut();
        for copy in here.filter(|copy| may && copy.meets(host, path, range)) {
            copy.good = false;
        }
        may
    }

    /// Takes note that a host has a good copy of `content` again, wherever it held one.
    pub fn repaired(&mut self, content: u64, host: HostId) {
        for copy in &mut self.copies {
            if (copy.content, copy.host) == (content, host) {
                copy.good = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_copy_is_never_damaged() {
        // Proves the rule, by host and range, until a repair.
        const ALL: Range<u64> = 0..u64::MAX;
        let (one, two) = (HostId(1), HostId(2));
        let file = Path::new("/data/lane-0/wal");
        let mut atlas = Atlas::default();
        atlas.hold(7, one, file, 0..4_096);
        assert!(!atlas.may_damage(one, file, &(0..512)), "the only copy");
        atlas.hold(7, two, "/data", ALL);
        assert!(atlas.may_damage(one, file, &(0..512)));
        assert!(
            !atlas.may_damage(one, file, &(4_096..8_192)),
            "of unknown content"
        );
        assert!(
            atlas.damage(two, Path::new("/data/x"), &(9..10)),
            "below the path"
        );
        assert!(!atlas.damage(one, file, &(0..512)), "the other is bad now");
        atlas.repaired(7, two);
        assert!(atlas.damage(one, file, &(0..512)));
        assert!(!atlas.may_damage(two, Path::new("/data"), &ALL));
        atlas.hold(8, two, "/data/other", 0..10);
        atlas.repaired(7, one);
        let both = Path::new("/data");
        assert!(!atlas.may_damage(two, both, &ALL), "8 has no other copy");
        atlas.forget(8);
        assert!(atlas.may_damage(two, both, &ALL));
    }
}
