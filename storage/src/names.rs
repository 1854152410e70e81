//! The names of a lane's files: which file is what is decided here and nowhere else.
//!
//! ```text
//! MANIFEST                   what is on disk; swapped by rename
//! wal-<epoch, 16 hex>.log    a WAL file under its current epoch; renamed when it is recycled
//! table-<id, 16 hex>.tbl     a sorted table, never changed once it has this name
//! *.new                      incomplete, unless it is a table that the manifest names
//! RESERVE                    space for the manifest that lets dead tables go on a full disk
//! quarantine/                what the lane found and did not know
//! lost+found/                the file system's, where the lane's directory is its root
//! ```

/// Name of the manifest.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// Name of the next manifest while it is written.
pub(crate) const MANIFEST_NEW: &str = "MANIFEST.new";
/// Name of the folder for what the lane does not know.
pub(crate) const QUARANTINE: &str = "quarantine";

/// Name of the folder that a file system keeps in its root.
const LOST_AND_FOUND: &str = "lost+found";

/// Name of the file whose space is kept for a manifest on a full disk.
pub(crate) const RESERVE: &str = "RESERVE";

/// What a file in the lane's directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Manifest,
    Wal {
        epoch: u64,
    },
    Table {
        id: u64,
    },
    /// Not renamed yet when the process stopped: nothing refers to it.
    Incomplete,
    Quarantine,
    Reserve,
    /// Not the lane's, and nobody's to move.
    LostAndFound,
    Unknown,
}

impl FileKind {
    pub(crate) fn of(name: &str) -> FileKind {
        match name {
            MANIFEST => FileKind::Manifest,
            MANIFEST_NEW => FileKind::Incomplete,
            QUARANTINE => FileKind::Quarantine,
            RESERVE => FileKind::Reserve,
            LOST_AND_FOUND => FileKind::LostAndFound,
            _ => FileKind::of_numbered(name),
        }
    }

    fn of_numbered(name: &str) -> FileKind {
        if let Some(epoch) = number(name, "wal-", ".log") {
            FileKind::Wal { epoch }
        } else if let Some(id) = number(name, "table-", ".tbl") {
            FileKind::Table { id }
        } else if number(name, "wal-", ".new")
            .or(number(name, "table-", ".new"))
            .is_some()
        {
            FileKind::Incomplete
        } else {
            FileKind::Unknown
        }
    }
}

pub(crate) fn wal(epoch: u64) -> String {
    format!("wal-{epoch:016x}.log")
}

pub(crate) fn wal_new(epoch: u64) -> String {
    format!("wal-{epoch:016x}.new")
}

pub(crate) fn table(id: u64) -> String {
    format!("table-{id:016x}.tbl")
}

pub(crate) fn table_new(id: u64) -> String {
    format!("table-{id:016x}.new")
}

fn number(name: &str, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() != 16 || !digits.bytes().all(lower_hex) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        // Proves that each written name is recognized, and near misses are unknown.
        assert_eq!(FileKind::of(&wal(0x12ab)), FileKind::Wal { epoch: 0x12ab });
        assert_eq!(
            FileKind::of(&table(u64::MAX)),
            FileKind::Table { id: u64::MAX }
        );
        assert_eq!(FileKind::of(MANIFEST), FileKind::Manifest);
        assert_eq!(FileKind::of(QUARANTINE), FileKind::Quarantine);
        assert_eq!(FileKind::of(RESERVE), FileKind::Reserve);
        assert_eq!(FileKind::of("lost+found"), FileKind::LostAndFound);
        for incomplete in [wal_new(1), table_new(1), MANIFEST_NEW.to_owned()] {
            assert_eq!(FileKind::of(&incomplete), FileKind::Incomplete);
        }
        let strange = [
            "wal-1.log",
            "wal-00000000000000AB.log",
            "table-0000000000000001.log",
        ];
        for name in strange
            .iter()
            .chain(&["", "notes.txt", "wal-+000000000000001.log"])
        {
            assert_eq!(FileKind::of(name), FileKind::Unknown, "{name}");
        }
    }
}
