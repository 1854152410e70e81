//! What a restart believes of the WAL, over arrays of bytes: torn tails are cut, lost synced
//! commits are not passed over, and nothing old or misplaced comes back.

use std::collections::BTreeMap;

use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};

use super::WalPlace;
use super::buffer::{Room, SealedCommit, WalBounds, WalBuffer};
use super::record::{
    COMMIT_HEADER_BYTES, CommitHeader, FIRST_COMMIT_POSITION, FileHeader, FileHeaderRead, Nonce,
    RECORD_HEADER_BYTES, RecordKind, read_commit,
};
use super::replay::{Fed, Replay, WalEnd};
use crate::batch::tests::batch;
use crate::key::PartitionKey;

const NONCE: Nonce = Nonce(0x5eed_0000_cafe_f00d);
const FILE_BYTES: u64 = 64 << 10;
const SECTOR_BYTES: usize = 512;

fn key(index: i32) -> PartitionKey {
    PartitionKey {
        topic: TopicId([1; 16]),
        index,
    }
}

fn buffer(place: WalPlace, run: u32) -> WalBuffer {
    let bounds = WalBounds {
        file_bytes: FILE_BYTES,
        commit_bytes_max: 32 << 10,
    };
    WalBuffer::new(NONCE, run, bounds, place)
}

/// The WAL files of a machine that loses power.
#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    fn file(&mut self, epoch: u64) -> &mut Vec<u8> {
        self.files
            .entry(epoch)
            .or_insert_with(|| vec![0; FILE_BYTES as usize])
    }

    fn write(&mut self, commit: &SealedCommit) {
        self.write_sectors(commit, |_| true);
    }

    /// Writes those sectors of the commit that `lands` picks.
    fn write_sectors(&mut self, commit: &SealedCommit, mut lands: impl FnMut(usize) -> bool) {
        let start = commit.place.position as usize;
        let file = self.file(commit.place.epoch);
        for (nth, sector) in commit.bytes.chunks(SECTOR_BYTES).enumerate() {
            if lands(nth) {
                let at = start + nth * SECTOR_BYTES;
                file[at..at + sector.len()].copy_from_slice(sector);
            }
        }
    }

    /// Replays from `floor`: the sequence numbers found, or where it is corrupt.
    fn replay(&self, floor: WalPlace) -> Result<(Vec<u64>, WalEnd), (u64, u64)> {
        let lengths = self
            .files
            .iter()
            .map(|(epoch, file)| (*epoch, file.len() as u64));
        let mut replay = Replay::new(NONCE, lengths.collect(), floor);
        let mut sequences = Vec::new();
        while let Some(need) = replay.need() {
            let start = need.position as usize;
            let bytes = &self.files[&need.epoch][start..start + need.length];
            match replay.feed(bytes) {
                Fed::Commit { records, .. } => {
                    sequences.extend(records.iter().map(|record| record.header.sequence));
                }
                Fed::Nothing => {}
                Fed::Corrupt { epoch, position } => return Err((epoch, position)),
            }
        }
        Ok((sequences, replay.end()))
    }
}

/// Appends `batches` batches of `bytes` and seals them; rolls when it must.
fn commit(buffer: &mut WalBuffer, batches: i32, bytes: usize) -> SealedCommit {
    let payload = vec![0x5a; bytes];
    let needed = (batches as usize * (bytes + 200) + 4096) as u64;
    if buffer.place().position + needed > FILE_BYTES {
        buffer.roll();
    }
    for nth in 0..batches {
        let one = batch(1, 1_000, &payload);
        assert_eq!(buffer.room_for(one.len()), Room::Fits);
        buffer.append_batch(key(nth), 0, Offset(i64::from(nth)), LeaderEpoch(2), &one);
    }
    buffer.seal(0).unwrap()
}

/// A small generator: the tests repeat exactly.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 32)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[test]
fn all_that_was_written_is_replayed_across_files() {
    // Proves that commits of all sizes come back in order over several files, and where it ends.
    let mut disk = Disk::default();
    let mut wal = buffer(WalPlace::START, 1);
    let mut written = 0;
    for nth in 0..40 {
        let sealed = commit(&mut wal, nth % 4 + 1, (nth as usize * 397) % 6000);
        written += u64::from(sealed.records);
        disk.write(&sealed);
    }
    assert!(
        disk.files.len() > 3,
        "the WAL rolled over {} files",
        disk.files.len()
    );
    let (sequences, end) = disk.replay(WalPlace::START).unwrap();
    assert_eq!(sequences, (1..=written).collect::<Vec<_>>());
    assert_eq!(
        end,
        WalEnd {
            place: wal.place(),
            cut_bytes: 0
        }
    );
}

#[test]
fn a_torn_last_commit_is_cut_whatever_sectors_landed() {
    // Proves the tail rule: any proper subset of the last commit's sectors is cut, with its size
    // reported when its header landed, and never taken for corruption or for data.
    for seed in 0..200 {
        let mut chance = Chance(seed);
        let mut disk = Disk::default();
        let mut wal = buffer(WalPlace::START, 1);
        disk.write(&commit(&mut wal, 3, 700));
        disk.write(&commit(&mut wal, 1, 9000));
        let end_before = wal.place();
        let last = commit(&mut wal, 4, 2500);
        // Sectors past the last record are padding: what lands of them changes nothing.
        let sectors = (last.bytes.len() - 4096) / SECTOR_BYTES;
        let missing = chance.below(sectors as u64) as usize;
        disk.write_sectors(&last, |nth| nth != missing && chance.below(2) == 0);
        let (sequences, end) = disk.replay(WalPlace::START).unwrap();
        assert_eq!(sequences, vec![1, 2, 3, 4], "seed {seed}");
        assert_eq!(end.place, end_before, "seed {seed}");
        let expected = [0, last.bytes.len() as u64];
        assert!(
            expected.contains(&end.cut_bytes),
            "seed {seed}: cut {}",
            end.cut_bytes
        );
    }
}

#[test]
fn a_damaged_commit_before_a_later_one_is_corruption() {
    // Proves that synced commits cannot vanish silently: whatever sector of them is lost, in the
    // same file or at the end of an earlier one, as long as a later commit's header stands.
    for nth in 0..9 {
        let mut disk = Disk::default();
        let mut wal = buffer(WalPlace::START, 1);
        let commits: Vec<_> = (0..10).map(|_| commit(&mut wal, 2, 5000)).collect();
        for sealed in &commits {
            disk.write(sealed);
        }
        assert!(
            disk.files.len() > 1,
            "the damage must also lie at the end of a file"
        );
        let damaged = commits[nth].place;
        for sector in [0, 1, 5] {
            let mut disk = disk.clone();
            let at = damaged.position as usize + sector * SECTOR_BYTES + 20;
            disk.file(damaged.epoch)[at] ^= 0x40;
            // The first commit of a file may as well have been lost at the end of the one before:
            // that is where the search began.
            let before = commits[nth.saturating_sub(1)].place;
            let length = commits[nth.saturating_sub(1)].bytes.len() as u64;
            let places = [
                (damaged.epoch, damaged.position),
                (before.epoch, before.position + length),
            ];
            let found = disk.replay(WalPlace::START).unwrap_err();
            assert!(
                places.contains(&found),
                "commit {nth}, sector {sector}: {found:?}"
            );
        }
    }
}

#[test]
fn a_later_header_alone_proves_corruption() {
    // Proves that a later commit counts as evidence even when its own records did not land.
    let mut disk = Disk::default();
    let mut wal = buffer(WalPlace::START, 1);
    let first = commit(&mut wal, 2, 3000);
    let second = commit(&mut wal, 2, 3000);
    disk.write_sectors(&first, |nth| nth != 3);
    disk.write_sectors(&second, |nth| nth == 0);
    assert_eq!(
        disk.replay(WalPlace::START).unwrap_err(),
        (1, FIRST_COMMIT_POSITION)
    );
}

#[test]
fn what_a_recycled_file_held_does_not_come_back() {
    // Proves that records of an older epoch end the replay instead of being replayed again.
    let mut old = Disk::default();
    let mut wal = buffer(WalPlace::START, 1);
    for _ in 0..4 {
        old.write(&commit(&mut wal, 2, 3000));
    }
    let mut disk = Disk::default();
    let place = WalPlace {
        epoch: 9,
        position: FIRST_COMMIT_POSITION,
        commit_id: 1,
        sequence: 1,
    };
    *disk.file(9) = old.files[&1].clone();
    let (sequences, end) = disk.replay(place).unwrap();
    assert_eq!(
        (sequences, end),
        (
            vec![],
            WalEnd {
                place,
                cut_bytes: 0
            }
        )
    );
    let mut wal = buffer(place, 2);
    disk.write(&commit(&mut wal, 1, 100));
    let (sequences, end) = disk.replay(place).unwrap();
    assert_eq!((sequences, end.place), (vec![1], wal.place()));
}

#[test]
fn a_commit_in_another_place_does_not_count() {
    // Proves that a misdirected write (a sound commit at a wrong position) does not verify.
    let mut disk = Disk::default();
    let mut wal = buffer(WalPlace::START, 1);
    let first = commit(&mut wal, 1, 3000);
    let second = commit(&mut wal, 1, 3000);
    disk.write(&first);
    let at = second.place.position as usize + 4096;
    disk.file(1)[at..at + second.bytes.len()].copy_from_slice(&second.bytes);
    let (sequences, end) = disk.replay(WalPlace::START).unwrap();
    assert_eq!(
        (sequences, end),
        (
            vec![1],
            WalEnd {
                place: second.place,
                cut_bytes: 0
            }
        )
    );
}

#[test]
fn two_torn_commits_of_one_id_are_never_mixed() {
    // Proves that a commit written over a torn one, and torn itself, is not completed by the
    // older one's sectors: the run number tells them apart.
    for seed in 0..300 {
        let mut chance = Chance(seed);
        let mut disk = Disk::default();
        let torn = commit(&mut buffer(WalPlace::START, 1), 3, 1500);
        let again = commit(&mut buffer(WalPlace::START, 2), 3, 1500);
        assert_eq!(torn.bytes.len(), again.bytes.len());
        let sectors = torn.bytes.len() / SECTOR_BYTES;
        let lost = chance.below(8) as usize;
        disk.write_sectors(&torn, |nth| nth != lost);
        disk.write_sectors(&again, |nth| {
            nth == lost || (nth < sectors - 1 && chance.below(2) == 0)
        });
        let (sequences, _) = disk.replay(WalPlace::START).unwrap();
        let whole = [&torn, &again].iter().any(|sealed| {
            let start = sealed.place.position as usize;
            let records = ..sealed.bytes.len() - SECTOR_BYTES;
            disk.files[&1][start..start + sealed.bytes.len()][records] == sealed.bytes[records]
        });
        assert!(
            sequences.is_empty() || whole,
            "seed {seed}: a mix of two commits was believed"
        );
    }
}

#[test]
fn random_bytes_are_no_wal() {
    // Proves that the replay ends in good order over any bytes at all.
    for seed in 0..50 {
        let mut chance = Chance(seed);
        let mut disk = Disk::default();
        let mut wal = buffer(WalPlace::START, 1);
        (0..3).for_each(|_| disk.write(&commit(&mut wal, 2, 900)));
        for _ in 0..chance.below(200) {
            let at = 4096 + chance.below(20_000) as usize;
            disk.file(1)[at] = chance.next() as u8;
        }
        let _ = disk.replay(WalPlace::START);
    }
}

#[test]
fn the_format_is_what_it_was() {
    // Proves that WAL files of earlier builds are still read: the bytes are those of version 1.
    let mut wal = buffer(WalPlace::START, 7);
    let one = batch(2, 99, b"golden");
    wal.append_batch(key(5), 0, Offset(40), LeaderEpoch(3), &one);
    wal.append_control(RecordKind::LogStart, key(5), Some(Offset(41)));
    wal.append_control(RecordKind::DropPartition, key(6), None);
    let sealed = wal.seal(0).unwrap();
    let mut bytes = FileHeader { epoch: 1 }.encode(NONCE).to_vec();
    bytes.resize(4096, 0);
    bytes.extend_from_slice(&sealed.bytes);
    let golden = include_bytes!("../../golden/wal-v1.bin");
    assert_eq!(bytes, golden, "a changed format needs a new version");
    assert_eq!(
        FileHeader::decode(golden, NONCE),
        FileHeaderRead::Valid(FileHeader { epoch: 1 })
    );
    let mut disk = Disk::default();
    disk.file(1)[..golden.len()].copy_from_slice(golden);
    assert_eq!(disk.replay(WalPlace::START).unwrap().0, vec![1, 2, 3]);
}

/// Makes a commit's header and its first record say the truth of themselves again.
fn seal_again(bytes: &mut [u8]) {
    let crc = |parts: &[&[u8]]| {
        let mut hasher = NONCE.hasher();
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize().to_le_bytes()
    };
    if bytes.len() < COMMIT_HEADER_BYTES + RECORD_HEADER_BYTES {
        return;
    }
    let header = crc(&[&bytes[..60]]);
    bytes[60..64].copy_from_slice(&header);
    let length = u32::from_le_bytes(bytes[68..72].try_into().unwrap()) as usize;
    if let Some(payload) = bytes.get(128..128_usize.saturating_add(length)) {
        let record = crc(&[&bytes[64..124], payload]);
        bytes[124..128].copy_from_slice(&record);
    }
}

#[test]
fn no_bytes_are_too_much_for_the_commit_decoder() {
    // Proves that mutations of commits, their checksums right or wrong, are refused or read within their bounds,
    // and never panic.
    let mut buffer = buffer(WalPlace::START, 7);
    let one = commit(&mut buffer, 1, 100);
    let three = commit(&mut buffer, 3, 1_000);
    let header = FileHeader { epoch: 1 }.encode(NONCE).to_vec();
    let samples = [one.bytes.to_vec(), three.bytes.to_vec(), header];
    let try_it = |bytes: &[u8]| {
        let _ = FileHeader::decode(bytes, NONCE);
        for at in [one.place, three.place] {
            let header = CommitHeader::decode(bytes, NONCE, at.epoch, at.position);
            let Some(header) = header else { continue };
            let Some(whole) = bytes.get(..header.length as usize) else {
                continue;
            };
            for record in read_commit(whole, &header, NONCE).unwrap_or_default() {
                assert!(record.payload.end <= whole.len());
            }
        }
    };
    streambus_shards::sim::mutated(&samples, |bytes| {
        try_it(bytes);
        seal_again(bytes);
        try_it(bytes);
    });
}

#[test]
fn a_replay_of_any_bytes_makes_nothing_up() {
    // Proves that a replay of mutated files ends, without a panic, with the front of what was written, and is
    // corrupt or cut behind it.
    let place = WalPlace::START;
    let mut buffer = buffer(place, 7);
    let mut disk = Disk::default();
    for nth in 1..6 {
        disk.write(&commit(&mut buffer, nth, 300));
    }
    let (written, _) = disk.replay(place).unwrap();
    let file = disk.files[&place.epoch].clone();
    let mut used = file.clone();
    used.truncate(24 << 10);
    let samples = [file, used];
    streambus_shards::sim::mutated(&samples, |bytes| {
        let files = BTreeMap::from([(place.epoch, bytes.clone())]);
        if let Ok((found, _)) = (Disk { files }).replay(place) {
            assert!(written.starts_with(&found), "{found:?}");
        }
    });
}
