//! The disk of a node that has come to rest holds what the node knows of and nothing else.

use super::{Breach, Rule};

/// A file on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOnDisk {
    /// Its path below the data directory.
    pub path: String,
    /// Its length.
    pub bytes: u64,
}

/// What a node's disk may hold when it has come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Lanes in the data directory.
    pub lanes: usize,
    /// Write-ahead log files a lane keeps when all its data is in tables or gone.
    pub wal_files_max: usize,
    /// Bytes of each of them.
    pub wal_file_bytes: u64,
    /// Whether no topic is left, so that no table may be either.
    pub empty: bool,
    /// Bytes of everything that is neither log nor table: manifests, metadata.
    pub rest_bytes_max: u64,
}

/// Checks the files of a node's data directory.
pub fn check(files: &[FileOnDisk], allowance: Allowance) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut breach = |what: String| breaches.push(Breach::new(Rule::Disk, what));
    let mut rest_bytes = 0;
    for lane in 0..allowance.lanes {
        let below = format!("lane-{lane}/");
        let logs = files
            .iter()
            .filter(|file| file.path.starts_with(&below) && is_wal(&file.path));
        let count = logs.clone().count();
        if count > allowance.wal_files_max {
            let most = allowance.wal_files_max;
            breach(format!(
                "lane {lane} keeps {count} log files, at most {most}"
            ));
        }
        for file in logs.filter(|file| file.bytes != allowance.wal_file_bytes) {
            let whole = allowance.wal_file_bytes;
            breach(format!("{} has {} of {whole} bytes", file.path, file.bytes));
        }
    }
    for file in files {
        let path = file.path.as_str();
        if path.contains("/quarantine/") {
            breach(format!("{path} was made by no one that the node knows"));
        } else if extension(path) == "new" {
            breach(format!("{path} was begun and neither finished nor removed"));
        } else if extension(path) == "tbl" {
            if allowance.empty {
                breach(format!("{path} is left, and there is no topic"));
            }
        } else if !is_wal(path) {
            rest_bytes += file.bytes;
        }
    }
    if rest_bytes > allowance.rest_bytes_max {
        let most = allowance.rest_bytes_max;
        breach(format!(
            "{rest_bytes} bytes of neither log nor table, at most {most}"
        ));
    }
    breaches
}

fn is_wal(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with("wal-") && extension(name) == "log"
}

fn extension(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(_, extension)| extension)
}
