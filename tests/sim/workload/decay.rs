//! Decay: bits rot, and sectors lie where others should be. The simulator keeps one good copy of what it
//! damages; until that comes back, the broker may refuse, and must not serve or build upon wrong bytes.
//!
//! Only where the broker can tell: a lane's last commit that does not verify looks like one that a power
//! failure tore, on a node that is alone. So a log decays only before a commit that is on the disk.

use std::ops::Range;
use std::path::{Path, PathBuf};

use streambus_shards::sim::Kill;

use super::Scene;
use crate::cluster::Node;
use crate::swarm::FaultKind;

const SECTOR_BYTES: u64 = 512;
/// Bytes of a log file's header: it decays without consequence.
const WAL_HEADER_BYTES: u64 = 4_096;

/// Damages something, if there is anything yet.
pub(super) fn happen(scene: &Scene, kind: FaultKind) {
    let places = places(scene);
    if places.is_empty() {
        return;
    }
    let disk = scene.world.disk(scene.node.host());
    let (path, sector) = sector(scene, &places);
    if kind == FaultKind::Misplace {
        let (from, at) = sector_of_table(scene, &places).unwrap_or((path.clone(), 0));
        disk.misplace((&from, at), (&path, sector));
    } else if kind == FaultKind::Unreadable {
        disk.lose_sector(&path, sector);
    } else {
        let byte = scene.trouble.between(0, SECTOR_BYTES - 1);
        disk.rot(&path, sector + byte);
    }
    if scene.trouble.percent(50) {
        // A log and a manifest are read by a start only.
        scene.node.kill(Kill::Process);
    }
}

/// The good copy comes back.
pub(super) fn mend(scene: &Scene) {
    scene.world.disk(scene.node.host()).mend();
}

/// What may decay: tables, manifests, and logs but for their ends.
fn places(scene: &Scene) -> Vec<(PathBuf, Range<u64>)> {
    let disk = scene.world.disk(scene.node.host());
    let lanes: Vec<PathBuf> = (0..scene.mix.node.lanes).map(Node::lane_dir).collect();
    let mut places = Vec::new();
    for (path, bytes) in disk.files() {
        if !lanes.iter().any(|lane| path.parent() == Some(lane)) {
            continue;
        }
        let range = if is_table(&path) || path.ends_with("MANIFEST") {
            0..bytes
        } else if path.extension().is_some_and(|extension| extension == "log") {
            // A commit may have been written in pieces, of which the latest is not its beginning.
            let last = disk.latest_durable_write(&path);
            let commit = scene.mix.node.commit_bytes_max as u64;
            WAL_HEADER_BYTES..last.saturating_sub(commit)
        } else {
            continue;
        };
        if range.start < range.end {
            places.push((path, range));
        }
    }
    places
}

fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tbl")
}

/// The beginning of a sector in one of the places.
fn sector(scene: &Scene, places: &[(PathBuf, Range<u64>)]) -> (PathBuf, u64) {
    let (path, range) = scene.trouble.one_of(places);
    let last = (range.end - 1) / SECTOR_BYTES;
    let sector = scene.trouble.between(range.start / SECTOR_BYTES, last);
    (path.clone(), sector * SECTOR_BYTES)
}

fn sector_of_table(scene: &Scene, places: &[(PathBuf, Range<u64>)]) -> Option<(PathBuf, u64)> {
    let mut tables = places.to_vec();
    tables.retain(|(path, _)| is_table(path));
    (!tables.is_empty()).then(|| sector(scene, &tables))
}
