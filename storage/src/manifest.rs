//! The manifest: which tables there are, from where on the WAL counts, and what is known of each
//! partition besides its batches.
//!
//! It is written whole and swapped: `MANIFEST.new`, synced, renamed over `MANIFEST`, directory
//! synced. Old or new, never a mix. The diagram is in the crate's docs.

use crc32fast::Hasher;
use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};

use crate::codec::{Decoder, Encoder, Malformed};
use crate::key::PartitionKey;
use crate::wal::WalPlace;

/// Version of the manifest format that this build writes. It reads versions 1, which knows neither merges nor
/// cleaning, and 2, which does not know when tables were written.
pub(crate) const MANIFEST_VERSION: u16 = 3;
const VERSION_BEFORE_CLEANING: u16 = 1;
const VERSION_BEFORE_TIMES: u16 = 2;

const MAGIC: u32 = u32::from_le_bytes(*b"SBMF");
const HEADER_BYTES: usize = 24;
const TABLE_BYTES: usize = 24;
const PARTITION_BYTES_MIN: usize = 52;

/// A table that the lane has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) id: u64,
    /// Bytes of the whole file: a file of another length is damaged.
    pub(crate) file_bytes: u64,
    /// Where the batches of WAL end that the table holds: ranges of a partition that was dropped
    /// and created again are told apart by it.
    pub(crate) sequence_end: u64,
    /// How often its bytes were merged since they were flushed.
    pub(crate) merges: u32,
    /// Numbers of its parts whose batches were cleaned into another table, ascending.
    pub(crate) replaced_parts: Vec<u32>,
    /// Nothing in it was appended later, by the wall clock, ms. `None` from builds that did not write it: the lane then
    /// takes the time at which it opens the table and writes that down.
    pub(crate) written_ms: Option<i64>,
}

/// The owner's state of a partition as of an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Annotation {
    pub(crate) offset: Offset,
    pub(crate) bytes: Vec<u8>,
}

/// What is known of a partition besides its batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionEntry {
    pub(crate) key: PartitionKey,
    pub(crate) log_start: Offset,
    /// WAL sequence number from which on records are this incarnation's: what the WAL still holds
    /// of an earlier one, dropped since, is passed over.
    pub(crate) created_sequence: u64,
    /// Below this every key's newest record is the only one, but for what has to wait.
    pub(crate) cleaned_end: Offset,
    /// Leader epochs with the offset at which each began.
    pub(crate) epochs: Vec<(LeaderEpoch, Offset)>,
    pub(crate) annotation: Option<Annotation>,
}

/// All that a lane knows about its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Drawn when the lane was created; starts the checksums of its WAL and tables.
    pub(crate) nonce: u64,
    /// Counts the manifests of the lane. From 2 on the first WAL file exists.
    pub(crate) generation: u64,
    /// Everything in the WAL before this is in tables.
    pub(crate) floor: WalPlace,
    /// Never given to a table before.
    pub(crate) next_table_id: u64,
    pub(crate) tables: Vec<TableEntry>,
    /// Tables that no manifest needs any more, but whose files may still be there.
    pub(crate) obsolete: Vec<u64>,
    pub(crate) partitions: Vec<PartitionEntry>,
}

/// Why bytes are no manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ManifestError {
    OtherVersion(u16),
    /// Magic, length, checksum or contents do not hold.
    Damaged,
}

impl From<Malformed> for ManifestError {
    fn from(_: Malformed) -> ManifestError {
        ManifestError::Damaged
    }
}

impl Manifest {
    /// The manifest of a lane that was never written.
    pub(crate) fn new(nonce: u64) -> Manifest {
        Manifest {
            nonce,
            generation: 1,
            floor: WalPlace::START,
            next_table_id: 1,
            tables: Vec::new(),
            obsolete: Vec::new(),
            partitions: Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = self.encode_body();
        let mut encoder = Encoder::with_capacity(HEADER_BYTES + body.len());
        encoder.u32(MAGIC);
        encoder.u16(MANIFEST_VERSION);
        encoder.u16(0);
        encoder.u64(body.len() as u64);
        encoder.u32(checksum(&body));
        encoder.u32(0);
        assert!(
            encoder.len() == HEADER_BYTES,
            "manifest header of {} bytes",
            encoder.len()
        );
        encoder.raw(&body);
        encoder.finish()
    }

    fn encode_body(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(128 + 96 * self.partitions.len());
        encoder.u64(self.nonce);
        encoder.u64(self.generation);
        encoder.u64(self.floor.epoch);
        encoder.u64(self.floor.position);
        encoder.u64(self.floor.commit_id);
        encoder.u64(self.floor.sequence);
        encoder.u64(self.next_table_id);
        encoder.count(self.tables.len());
        for table in &self.tables {
            assert!(table.id < self.next_table_id, "a table id from the future");
            encoder.u64(table.id);
            encoder.u64(table.file_bytes);
            encoder.u64(table.sequence_end);
            encoder.u32(table.merges);
            encoder.count(table.replaced_parts.len());
            for part in &table.replaced_parts {
                encoder.u32(*part);
            }
            encoder.i64(table.written_ms.unwrap_or(-1));
        }
        encoder.count(self.obsolete.len());
        for id in &self.obsolete {
            encoder.u64(*id);
        }
        encoder.count(self.partitions.len());
        for partition in &self.partitions {
            encode_partition(&mut encoder, partition);
        }
        encoder.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let mut header = Decoder::new(bytes);
        if header.u32()? != MAGIC {
            return Err(ManifestError::Damaged);
        }
        let version = header.u16()?;
        if !(VERSION_BEFORE_CLEANING..=MANIFEST_VERSION).contains(&version) {
            return Err(ManifestError::OtherVersion(version));
        }
        header.u16()?;
        let length = usize::try_from(header.u64()?).map_err(|_| ManifestError::Damaged)?;
        let crc = header.u32()?;
        header.u32()?;
        let body = header.raw(length)?;
        header.finish()?;
        if checksum(body) != crc {
            return Err(ManifestError::Damaged);
        }
        Ok(Manifest::decode_body(body, version)?)
    }

    fn decode_body(body: &[u8], version: u16) -> Result<Manifest, Malformed> {
        let mut decoder = Decoder::new(body);
        let nonce = decoder.u64()?;
        let generation = decoder.u64()?;
        let floor = WalPlace {
            epoch: decoder.u64()?,
            position: decoder.u64()?,
            commit_id: decoder.u64()?,
            sequence: decoder.u64()?,
        };
        let next_table_id = decoder.u64()?;
        let tables = decoder.count(TABLE_BYTES)?;
        let mut read_table = || -> Result<TableEntry, Malformed> {
            let mut entry = TableEntry {
                id: decoder.u64()?,
                file_bytes: decoder.u64()?,
                sequence_end: decoder.u64()?,
                merges: 0,
                replaced_parts: Vec::new(),
                written_ms: None,
            };
            if version > VERSION_BEFORE_CLEANING {
                entry.merges = decoder.u32()?;
                let replaced = decoder.count(4)?;
                let parts = (0..replaced).map(|_| decoder.u32());
                entry.replaced_parts = parts.collect::<Result<_, _>>()?;
            }
            if version > VERSION_BEFORE_TIMES {
                entry.written_ms = Some(decoder.i64()?).filter(|time| *time >= 0);
            }
            Ok(entry)
        };
        let tables = (0..tables)
            .map(|_| read_table())
            .collect::<Result<Vec<_>, _>>()?;
        let obsolete = decoder.count(8)?;
        let obsolete = (0..obsolete)
            .map(|_| decoder.u64())
            .collect::<Result<Vec<_>, _>>()?;
        let partitions = decoder.count(PARTITION_BYTES_MIN)?;
        let partitions = (0..partitions)
            .map(|_| decode_partition(&mut decoder, version))
            .collect::<Result<Vec<_>, _>>()?;
        decoder.finish()?;
        let mut read = Manifest {
            nonce,
            generation,
            floor,
            next_table_id,
            tables,
            obsolete,
            partitions,
        };
        read.tables.sort_unstable_by_key(|table| table.id);
        let ids_known = read.tables.iter().all(|table| table.id < next_table_id);
        if ids_known { Ok(read) } else { Err(Malformed) }
    }
}

fn encode_partition(encoder: &mut Encoder, partition: &PartitionEntry) {
    encoder.raw(&partition.key.topic.0);
    encoder.i32(partition.key.index);
    encoder.i64(partition.log_start.0);
    encoder.u64(partition.created_sequence);
    encoder.i64(partition.cleaned_end.0);
    encoder.count(partition.epochs.len());
    for (leader_epoch, start) in &partition.epochs {
        encoder.i32(leader_epoch.0);
        encoder.i64(start.0);
    }
    let annotation = partition.annotation.as_ref();
    encoder.i64(annotation.map_or(-1, |annotation| annotation.offset.0));
    encoder.count(annotation.map_or(0, |annotation| annotation.bytes.len()));
    encoder.raw(annotation.map_or(&[], |annotation| &annotation.bytes));
}

fn decode_partition(decoder: &mut Decoder<'_>, version: u16) -> Result<PartitionEntry, Malformed> {
    let key = PartitionKey {
        topic: TopicId(decoder.uuid()?),
        index: decoder.i32()?,
    };
    let log_start = Offset(decoder.i64()?);
    let created_sequence = decoder.u64()?;
    let cleaned_end = match version {
        VERSION_BEFORE_CLEANING => Offset(0),
        _ => Offset(decoder.i64()?),
    };
    let count = decoder.count(12)?;
    let mut epochs = Vec::with_capacity(count);
    for _ in 0..count {
        epochs.push((LeaderEpoch(decoder.i32()?), Offset(decoder.i64()?)));
    }
    let offset = decoder.i64()?;
    let length = decoder.count(1)?;
    let bytes = decoder.raw(length)?.to_vec();
    let annotation = (offset >= 0).then_some(Annotation {
        offset: Offset(offset),
        bytes,
    });
    if log_start.0 < 0 || cleaned_end.0 < 0 {
        return Err(Malformed);
    }
    Ok(PartitionEntry {
        key,
        log_start,
        created_sequence,
        cleaned_end,
        epochs,
        annotation,
    })
}

fn checksum(body: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&(body.len() as u64).to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let partition = |index, annotation| PartitionEntry {
            key: PartitionKey {
                topic: TopicId([9; 16]),
                index,
            },
            log_start: Offset(5),
            created_sequence: 77,
            cleaned_end: Offset(40),
            epochs: vec![(LeaderEpoch(0), Offset(0)), (LeaderEpoch(4), Offset(50))],
            annotation,
        };
        let annotation = Annotation {
            offset: Offset(60),
            bytes: b"producers".to_vec(),
        };
        Manifest {
            nonce: 0x0123_4567_89ab_cdef,
            generation: 12,
            floor: WalPlace {
                epoch: 3,
                position: 8192,
                commit_id: 40,
                sequence: 90,
            },
            next_table_id: 8,
            tables: vec![TableEntry {
                id: 7,
                file_bytes: 65536,
                sequence_end: 90,
                merges: 2,
                replaced_parts: vec![3, 8],
                written_ms: Some(1_700_000_000_123),
            }],
            obsolete: vec![6],
            partitions: vec![partition(0, None), partition(1, Some(annotation))],
        }
    }

    #[test]
    fn a_manifest_reads_back() {
        // Proves that the manifest says after a restart what it said before.
        let manifest = sample();
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        let empty = Manifest::new(1);
        assert_eq!(Manifest::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn every_damage_is_noticed() {
        // Proves that no flipped bit and no cut goes unnoticed, and another version is told as such.
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let version_or_unused = (4..8).contains(&at) || (20..24).contains(&at);
            assert!(
                version_or_unused || Manifest::decode(&flipped).is_err(),
                "byte {at}"
            );
            assert!(Manifest::decode(&bytes[..at]).is_err(), "cut to {at} bytes");
        }
        let mut newer = bytes;
        newer[4] = 4;
        assert_eq!(
            Manifest::decode(&newer),
            Err(ManifestError::OtherVersion(4))
        );
    }

    #[test]
    fn no_bytes_are_too_much_for_the_decoder() {
        // Proves that mutations of manifests, their checksum right or wrong, are refused or come back as they
        // were written, and never panic.
        let samples = [
            sample().encode(),
            Manifest::new(1).encode(),
            include_bytes!("../golden/manifest-v1.bin").to_vec(),
            include_bytes!("../golden/manifest-v2.bin").to_vec(),
        ];
        streambus_shards::sim::mutated(&samples, |bytes| {
            let _ = Manifest::decode(bytes);
            let Some((header, body)) = bytes.split_at_mut_checked(HEADER_BYTES) else {
                return;
            };
            header[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
            header[16..20].copy_from_slice(&checksum(body).to_le_bytes());
            if let Ok(read) = Manifest::decode(bytes) {
                assert_eq!(Manifest::decode(&read.encode()), Ok(read));
            }
        });
    }

    #[test]
    fn the_format_is_what_it_was() {
        // Proves that manifests of earlier builds are still read: the bytes are those of versions
        // 1, which knew neither merges nor cleaning, 2, which did not know when tables were written, and 3.
        let golden = include_bytes!("../golden/manifest-v1.bin");
        let mut before = sample();
        for table in &mut before.tables {
            (table.merges, table.replaced_parts) = (0, Vec::new());
            table.written_ms = None;
        }
        for partition in &mut before.partitions {
            partition.cleaned_end = Offset(0);
        }
        assert_eq!(Manifest::decode(golden), Ok(before));
        let golden = include_bytes!("../golden/manifest-v2.bin");
        let mut before = sample();
        for table in &mut before.tables {
            table.written_ms = None;
        }
        assert_eq!(Manifest::decode(golden), Ok(before));
        let golden = include_bytes!("../golden/manifest-v3.bin");
        assert_eq!(Manifest::decode(golden), Ok(sample()));
        assert_eq!(
            sample().encode(),
            golden,
            "a changed format needs a new version"
        );
    }
}
