//! How much memory this process may use: the machine's, or less where a control group limits it.

use std::path::Path;

/// Control groups, as Linux mounts them: version 2, and the memory controller of version 1.
const GROUPS: &str = "/sys/fs/cgroup";
const MEMORY_GROUPS: &str = "/sys/fs/cgroup/memory";

/// Bytes of memory this process may use; 0 where the system does not say.
pub fn memory_bytes() -> u64 {
    memory_bytes_in(|path| std::fs::read_to_string(path).ok())
}

fn memory_bytes_in(read: impl Fn(&Path) -> Option<String>) -> u64 {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total_bytes(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limits_of(line, &read));
    limits.fold(machine.unwrap_or(0), u64::min)
}

/// `MemTotal:       24689764 kB` among other lines.
fn total_bytes(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let total = lines.find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1_024)
}

/// The limits of a group that `/proc/self/cgroup` names, and of those above it: `0::/user.slice/a`, or
/// `4:memory:/a` in version 1. Within a container the names may be those outside; then its own group is
/// what is mounted.
fn limits_of(line: &str, read: &impl Fn(&Path) -> Option<String>) -> Vec<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
        return Vec::new();
    };
    let (mount, file) = match controllers {
        "" => (GROUPS, "memory.max"),
        known if known.split(',').any(|name| name == "memory") => {
            (MEMORY_GROUPS, "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let path = Path::new(mount).join(group.trim_start_matches('/'));
    let within = path.ancestors().filter(|place| place.starts_with(mount));
    // `max` is no number, and no limit.
    within
        .filter_map(|place| read(&place.join(file))?.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: (&str, &str) = ("/proc/meminfo", "MemFree: 1 kB\nMemTotal:    8 kB\n");

    fn found(files: &[(&str, &str)]) -> u64 {
        memory_bytes_in(|path| {
            let known = files.iter().find(|(name, _)| Path::new(name) == path);
            known.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_tightest_limit_counts() {
        // Proves which files say how much there is: the machine's, or the least that a control group of either
        // version, this one's or one above it, leaves.
        let v2 = ("/proc/self/cgroup", "0::/a/b\n");
        let v1 = ("/proc/self/cgroup", "9:pids:/p\n4:cpu,memory:/a\n0::/\n");
        let cases: [(&[_], u64); 8] = [
            (&[], 0),
            (&[MACHINE], 8_192),
            (&[MACHINE, v2], 8_192),
            (
                &[MACHINE, v2, ("/sys/fs/cgroup/a/b/memory.max", "4096\n")],
                4_096,
            ),
            (
                &[
                    MACHINE,
                    v2,
                    ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
                    ("/sys/fs/cgroup/a/memory.max", "5000\n"),
                ],
                5_000,
            ),
            (&[MACHINE, v2, ("/sys/fs/cgroup/memory.max", "77\n")], 77),
            (
                &[
                    MACHINE,
                    v1,
                    ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "6000"),
                ],
                6_000,
            ),
            (
                &[
                    MACHINE,
                    v1,
                    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "99999999"),
                ],
                8_192,
            ),
        ];
        for (files, expected) in cases {
            assert_eq!(found(files), expected, "{files:?}");
        }
        assert!(memory_bytes() > 0, "Linux tells");
    }
}
