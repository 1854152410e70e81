//! What `streambus check` finds out about the machine, each finding with its remedy.
//!
//! It runs before a node or without one. It writes one probe file beside the data and removes it.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use streambus_shards::{
    BLOCK_BYTES, BufMut, File, OpenOptions, disk, now, probe, run_alone, try_ring_memory,
};

use crate::config::{Advertise, Config, ListenerConfig};

/// Older kernels lack what the rings need.
const KERNEL_MIN: (u32, u32) = (5, 15);
/// The default limits allow 10,000 connections, and tables are open files too.
const OPEN_FILES_MIN: u64 = 1_024;
const OPEN_FILES_GOOD: u64 = 16_384;
/// Durable writes of the probe. At 10 ms each, a slow disk's, it takes a second.
const PROBE_WRITES: u32 = 100;
/// Above this a durable write is slower than clients of an ordinary broker expect.
const SYNC_P99_GOOD_US: u64 = 20_000;

/// How a finding is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, less well than it could.
    Warn,
    /// A node would not start, or would not be safe.
    Fail,
}

impl Verdict {
    /// The word shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, unless it is as it should be.
    pub remedy: Option<&'static str>,
}

impl Finding {
    fn new(
        name: &'static str,
        found: impl Into<String>,
        judged: Option<(Verdict, &'static str)>,
    ) -> Self {
        let (verdict, remedy) = judged.map_or((Verdict::Ok, None), |(verdict, remedy)| {
            (verdict, Some(remedy))
        });
        Self {
            name,
            verdict,
            found: found.into(),
            remedy,
        }
    }
}

/// Looks at everything, for data in `data_dir` and so many cores.
pub fn run(data_dir: &Path, cores: usize) -> Vec<Finding> {
    let uring = io_uring();
    let allowed = uring.verdict != Verdict::Fail;
    let mut findings = vec![kernel(&probe::kernel_release()), uring];
    if allowed {
        findings.push(memlock(
            probe::memlock_bytes(),
            try_ring_memory(cores).is_ok(),
        ));
    }
    // As a start does, before it counts them.
    findings.push(open_files(probe::raise_open_files()));
    findings.push(governor(probe::cpu_governor().as_deref()));
    let holder = existing(data_dir);
    findings.push(file_system(&holder));
    if allowed {
        findings.extend(disk(&holder));
    }
    findings
}

/// Whether clients reach each core at the address that they are told.
///
/// Behind a port forward or NAT they do only if the port of every core is forwarded, too.
pub fn listeners(config: &Config) -> Vec<Finding> {
    let shown = config.listeners.iter();
    shown
        .map(|(name, listener)| listener_addresses(name, listener))
        .collect()
}

fn listener_addresses(name: &str, listener: &ListenerConfig) -> Finding {
    // Only an address of this machine can be bound.
    let is_own = |host: &str| UdpSocket::bind((host, 0)).is_ok();
    let host = listener.advertised_host.as_deref();
    let elsewhere = host.filter(|host| !is_own(host));
    let port = listener
        .advertised_port
        .filter(|port| *port != listener.port);
    let found = match (listener.advertise, elsewhere, port) {
        (Advertise::Node, ..) => format!("{name} shows the node as one broker"),
        (Advertise::Core, None, None) => format!("{name} shows each core where it listens"),
        (Advertise::Core, Some(host), _) => {
            format!("{name} shows each core at {host}, which is no address of this machine")
        }
        (Advertise::Core, None, Some(port)) => {
            format!("{name} shows port {port} and listens on {}", listener.port)
        }
    };
    let is_forwarded =
        listener.advertise == Advertise::Core && (elsewhere.is_some() || port.is_some());
    let remedy = "forward the port of every core as well, or set advertise = \"node\"";
    Finding::new(
        "listener",
        found,
        is_forwarded.then_some((Verdict::Warn, remedy)),
    )
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let old = (Verdict::Fail, "run Linux 5.15 or later");
    Finding::new("kernel", release, (version < KERNEL_MIN).then_some(old))
}

fn io_uring() -> Finding {
    match probe::io_uring() {
        Ok(()) => Finding::new("io_uring", "allowed", None),
        Err(refused) => Finding::new(
            "io_uring",
            refused.to_string(),
            Some((
                Verdict::Fail,
                "allow it: seccomp profile, kernel.io_uring_disabled=0, or memlock limit",
            )),
        ),
    }
}

fn memlock(bytes: u64, rings_fit: bool) -> Finding {
    let found = if bytes == u64::MAX {
        "unlimited".to_owned()
    } else {
        format!("{bytes} bytes")
    };
    let low = (
        Verdict::Fail,
        "raise it: `ulimit -l unlimited` or LimitMEMLOCK=infinity, or serve with fewer cores (node.cores)",
    );
    Finding::new("memlock", found, (!rings_fit).then_some(low))
}

fn open_files(limit: u64) -> Finding {
    let remedy = "raise it: `ulimit -n 65536` or LimitNOFILE=65536";
    let judged = match limit {
        ..OPEN_FILES_MIN => Some((Verdict::Fail, remedy)),
        OPEN_FILES_MIN..OPEN_FILES_GOOD => Some((Verdict::Warn, remedy)),
        OPEN_FILES_GOOD.. => None,
    };
    Finding::new("open files", limit.to_string(), judged)
}

fn governor(name: Option<&str>) -> Finding {
    let slow = (
        Verdict::Warn,
        "set it: `cpupower frequency-set -g performance`",
    );
    let judged = name
        .is_some_and(|name| name != "performance")
        .then_some(slow);
    Finding::new(
        "CPU governor",
        name.unwrap_or("none (a virtual machine, or the firmware decides)"),
        judged,
    )
}

fn file_system(path: &Path) -> Finding {
    let name = "file system";
    match probe::file_system(path) {
        Err(error) => Finding::new(
            name,
            format!("{}: {error}", path.display()),
            Some((Verdict::Fail, "choose another data.dir")),
        ),
        Ok(kind) => {
            let judged = match kind.as_str() {
                "ext4" | "xfs" => None,
                "tmpfs" => Some((
                    Verdict::Warn,
                    "data is lost when the machine stops: use ext4 or xfs on a disk",
                )),
                "nfs" => Some((
                    Verdict::Fail,
                    "use a local disk with ext4 or xfs: syncs and locks over NFS can't be trusted",
                )),
                _ => Some((Verdict::Warn, "ext4 and xfs are the ones that are tested")),
            };
            Finding::new(name, format!("{kind} at {}", path.display()), judged)
        }
    }
}

/// The directory, or the nearest one above it that exists: a check makes none.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute
        .ancestors()
        .find(|path| disk::exists(path))
        .unwrap_or(Path::new("/"))
        .to_path_buf()
}

/// Direct I/O and the latency of durable writes.
fn disk(directory: &Path) -> Vec<Finding> {
    let path = directory.join(format!(".streambus-check-{}", std::process::id()));
    let directory = directory.to_path_buf();
    let outcome = run_alone(async move {
        let outcome = probe_disk(&path).await;
        // A file that was never made can't be removed: then the outcome says why.
        let _ = std::fs::remove_file(&path);
        outcome
    });
    match outcome {
        Err(error) => vec![Finding::new(
            "disk",
            error.to_string(),
            Some((Verdict::Fail, "see the findings above")),
        )],
        Ok(Err(reason)) => vec![Finding::new(
            "disk",
            format!("{}: {reason}", directory.display()),
            Some((
                Verdict::Fail,
                "make the data directory writable for this user, or choose another data.dir",
            )),
        )],
        Ok(Ok((direct, latencies))) => vec![direct_io(direct), sync_latency(latencies)],
    }
}

/// Whether direct I/O works, and how long each of a number of durable 4 KiB writes took, in µs.
async fn probe_disk(path: &Path) -> Result<(bool, Vec<u64>), String> {
    let options = OpenOptions {
        write: true,
        create_new: true,
        ..OpenOptions::default()
    };
    let made = File::open(path, options)
        .await
        .map_err(|error| error.to_string())?;
    drop(made);
    let direct = OpenOptions {
        write: true,
        direct: true,
        ..OpenOptions::default()
    };
    let (file, direct) = if let Ok(file) = File::open(path, direct).await {
        (file, true)
    } else {
        let plain = OpenOptions {
            write: true,
            ..OpenOptions::default()
        };
        (
            File::open(path, plain)
                .await
                .map_err(|error| error.to_string())?,
            false,
        )
    };
    let mut block = BufMut::with_capacity(BLOCK_BYTES);
    block.put_zeros(BLOCK_BYTES);
    let block = block.freeze();
    let mut latencies = Vec::new();
    // The first write makes the block, which takes longer than overwriting it: not counted.
    for round in 0..=PROBE_WRITES {
        let start = now();
        file.write_at(0, &block)
            .await
            .map_err(|error| error.to_string())?;
        file.datasync().await.map_err(|error| error.to_string())?;
        if round > 0 {
            latencies.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
    Ok((direct, latencies))
}

fn direct_io(works: bool) -> Finding {
    let judged = (!works).then_some((
        Verdict::Fail,
        "use a file system with O_DIRECT, such as ext4 or xfs",
    ));
    Finding::new(
        "direct I/O",
        if works {
            "works"
        } else {
            "refused by the file system"
        },
        judged,
    )
}

fn sync_latency(mut latencies: Vec<u64>) -> Finding {
    latencies.sort_unstable();
    let at = |percent: usize| {
        latencies
            .get(latencies.len() * percent / 100)
            .copied()
            .unwrap_or(0)
    };
    let (median, tail) = (at(50), at(99));
    let slow = (
        Verdict::Warn,
        "acknowledgements wait for this: use a faster disk, or one with power-loss protection",
    );
    Finding::new(
        "durable write",
        format!("4 KiB p50 {median} us, p99 {tail} us"),
        (tail > SYNC_P99_GOOD_US).then_some(slow),
    )
}

/// The findings for people, one a line and a remedy below where there is one.
pub fn to_text(findings: &[Finding]) -> String {
    use std::fmt::Write;
    findings.iter().fold(String::new(), |mut out, finding| {
        let verdict = finding.verdict.as_str();
        // Writing to a string does not fail.
        let _ = writeln!(out, "{verdict:<4}  {:<13}  {}", finding.name, finding.found);
        if let Some(remedy) = finding.remedy {
            let _ = writeln!(out, "      {:<13}  -> {remedy}", "");
        }
        out
    })
}

/// Whether a node may start here.
pub fn passed(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.verdict != Verdict::Fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_judged_by_its_limits() {
        // Proves: the edges of every limit fall on the right side.
        let cases = [
            (kernel("5.14.21-generic"), Verdict::Fail),
            (kernel("5.15.0-91-generic"), Verdict::Ok),
            (kernel("6.18.44"), Verdict::Ok),
            (kernel("unknown"), Verdict::Fail),
            (memlock(64 << 10, false), Verdict::Fail),
            (memlock(512 << 10, true), Verdict::Ok),
            (memlock(u64::MAX, true), Verdict::Ok),
            (open_files(64), Verdict::Fail),
            (open_files(1_024), Verdict::Warn),
            (open_files(16_384), Verdict::Ok),
            (governor(None), Verdict::Ok),
            (governor(Some("powersave")), Verdict::Warn),
            (governor(Some("performance")), Verdict::Ok),
            (direct_io(false), Verdict::Fail),
            (sync_latency(vec![100; 100]), Verdict::Ok),
            (sync_latency(vec![50_000; 100]), Verdict::Warn),
        ];
        for (finding, wanted) in cases {
            assert_eq!(finding.verdict, wanted, "{finding:?}");
            assert_eq!(
                finding.remedy.is_some(),
                wanted != Verdict::Ok,
                "{finding:?}"
            );
        }
    }

    #[test]
    fn cores_behind_a_forward_are_noticed() {
        // Proves: a warning where cores are shown at a port or host that is not the listener's own, and none
        // for a node, which has one port.
        let listener = |advertise, host: Option<&str>, port| ListenerConfig {
            advertise,
            advertised_host: host.map(str::to_owned),
            advertised_port: port,
            ..ListenerConfig::default()
        };
        let cases = [
            (listener(Advertise::Core, None, None), Verdict::Ok),
            (
                listener(Advertise::Core, Some("127.0.0.1"), None),
                Verdict::Ok,
            ),
            (listener(Advertise::Core, None, Some(9_092)), Verdict::Ok),
            (listener(Advertise::Core, None, Some(19_092)), Verdict::Warn),
            // An address for documentation: no machine has it.
            (
                listener(Advertise::Core, Some("203.0.113.5"), None),
                Verdict::Warn,
            ),
            (
                listener(Advertise::Node, Some("203.0.113.5"), Some(19_092)),
                Verdict::Ok,
            ),
        ];
        for (listener, wanted) in cases {
            let finding = listener_addresses("main", &listener);
            assert_eq!(finding.verdict, wanted, "{finding:?}");
        }
    }

    #[test]
    fn findings_are_readable() {
        // Proves: one line a finding, its remedy below (golden).
        let text = to_text(&[memlock(u64::MAX, true), open_files(64)]);
        assert_eq!(
            text,
            "ok    memlock        unlimited\n\
             fail  open files     64\n      \
             \x20              -> raise it: `ulimit -n 65536` or LimitNOFILE=65536\n"
        );
        assert!(!passed(&[open_files(64)]));
        assert!(passed(&[open_files(2_000)]));
    }

    #[test]
    fn a_check_leaves_nothing_behind() {
        // Proves: neither the data directory nor the probe file exists after it.
        let parent = tempfile::tempdir().unwrap();
        let findings = run(&parent.path().join("not/there"), 1);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        assert!(
            findings
                .iter()
                .any(|finding| finding.name == "durable write"),
            "{findings:?}"
        );
    }
}
