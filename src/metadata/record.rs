//! How changes are written: little-endian, each with its kind and length in front, so that an
//! unknown kind is noticed before its bytes are read as something else.
//!
//! A kind's layout never changes once released; a new layout is a new kind.

use streambus_proto::ids::{LeaderEpoch, TopicId};

use super::delta::Change;
use super::image::{ConfigMap, ConfigScope, NodeId, PartitionPlace};

const TOPIC_CREATED: u16 = 1;
const TOPIC_DELETED: u16 = 2;
const PARTITIONS_ADDED: u16 = 3;
const TOPIC_CONFIGS_SET: u16 = 4;
const BROKER_CONFIGS_SET: u16 = 5;
const PRODUCER_IDS_ALLOCATED: u16 = 6;
const DELETED_TOPICS_SET: u16 = 7;
const LANES_ADDED: u16 = 8;

const SCOPE_CLUSTER: u8 = 0;
const SCOPE_NODE: u8 = 1;

/// Kind and length of a change.
const CHANGE_HEADER_BYTES: usize = 6;

/// Why bytes are not a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a later version.
    #[error("record type {0} is unknown to this version; start the version that wrote it")]
    UnknownType(u16),
    /// Not what this version writes.
    #[error("a record of type {kind} is malformed: {what}")]
    Malformed {
        /// The kind that the bytes say.
        kind: u16,
        /// What is wrong.
        what: &'static str,
    },
}

/// Appends a change.
pub(super) fn encode(change: &Change, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; CHANGE_HEADER_BYTES]);
    let kind = match change {
        Change::TopicCreated {
            name,
            id,
            partitions,
            configs,
        } => {
            put_text(out, name);
            out.extend_from_slice(&id.0);
            put_places(out, partitions);
            put_configs(out, configs);
            TOPIC_CREATED
        }
        Change::TopicDeleted { id } => {
            out.extend_from_slice(&id.0);
            TOPIC_DELETED
        }
        Change::PartitionsAdded {
            id,
            first,
            partitions,
        } => {
            out.extend_from_slice(&id.0);
            out.extend_from_slice(&first.to_le_bytes());
            put_places(out, partitions);
            PARTITIONS_ADDED
        }
        Change::TopicConfigsSet { id, configs } => {
            out.extend_from_slice(&id.0);
            put_configs(out, configs);
            TOPIC_CONFIGS_SET
        }
        Change::BrokerConfigsSet { scope, configs } => {
            let (kind, node) = match scope {
                ConfigScope::Cluster => (SCOPE_CLUSTER, NodeId(0)),
                ConfigScope::Node(node) => (SCOPE_NODE, *node),
            };
            out.push(kind);
            out.extend_from_slice(&node.0.to_le_bytes());
            put_configs(out, configs);
            BROKER_CONFIGS_SET
        }
        Change::ProducerIdsAllocated { first, count } => {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
            PRODUCER_IDS_ALLOCATED
        }
        Change::DeletedTopicsSet { ids } => {
            out.extend_from_slice(&length(ids.len()).to_le_bytes());
            for id in ids {
                out.extend_from_slice(&id.0);
            }
            DELETED_TOPICS_SET
        }
        Change::LanesAdded { node, lanes } => {
            out.extend_from_slice(&node.0.to_le_bytes());
            out.extend_from_slice(&lanes.to_le_bytes());
            LANES_ADDED
        }
    };
    let bytes = length(out.len() - start - CHANGE_HEADER_BYTES);
    out[start..start + 2].copy_from_slice(&kind.to_le_bytes());
    out[start + 2..start + CHANGE_HEADER_BYTES].copy_from_slice(&bytes.to_le_bytes());
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a request that is larger never got here")
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&length(text.len()).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_configs(out: &mut Vec<u8>, configs: &ConfigMap) {
    out.extend_from_slice(&length(configs.len()).to_le_bytes());
    for (name, value) in configs {
        put_text(out, name);
        put_text(out, value);
    }
}

fn put_places(out: &mut Vec<u8>, places: &[PartitionPlace]) {
    out.extend_from_slice(&length(places.len()).to_le_bytes());
    for place in places {
        out.extend_from_slice(&place.lane.to_le_bytes());
        out.extend_from_slice(&place.leader.0.to_le_bytes());
        out.extend_from_slice(&place.leader_epoch.0.to_le_bytes());
        let replicas = u8::try_from(place.replicas.len()).expect("far fewer replicas than 256");
        out.push(replicas);
        for node in &place.replicas {
            out.extend_from_slice(&node.0.to_le_bytes());
        }
    }
}

/// Takes one change off the front of `bytes`.
///
/// # Errors
/// If a later version wrote it, or nobody.
pub(super) fn decode(bytes: &mut Bytes<'_>) -> Result<Change, RecordError> {
    let header_cut = || RecordError::Malformed {
        kind: 0,
        what: "its header is cut short",
    };
    let kind = bytes.u16().ok_or_else(header_cut)?;
    let len = bytes.length().ok_or_else(header_cut)?;
    let malformed = |what| RecordError::Malformed { kind, what };
    let body = bytes.take(len).ok_or(malformed("it is cut short"))?;
    let mut body = Bytes(body);
    let change = match kind {
        TOPIC_CREATED => topic_created(&mut body),
        TOPIC_DELETED => body.topic_id().map(|id| Change::TopicDeleted { id }),
        PARTITIONS_ADDED => partitions_added(&mut body),
        TOPIC_CONFIGS_SET => topic_configs_set(&mut body),
        BROKER_CONFIGS_SET => broker_configs_set(&mut body),
        PRODUCER_IDS_ALLOCATED => producer_ids_allocated(&mut body),
        DELETED_TOPICS_SET => deleted_topics_set(&mut body),
        LANES_ADDED => lanes_added(&mut body),
        unknown => return Err(RecordError::UnknownType(unknown)),
    };
    let change = change.ok_or(malformed("a field is cut short or not text"))?;
    if !body.0.is_empty() {
        return Err(malformed("bytes are left over"));
    }
    Ok(change)
}

fn topic_created(body: &mut Bytes<'_>) -> Option<Change> {
    Some(Change::TopicCreated {
        name: body.text()?,
        id: body.topic_id()?,
        partitions: body.places()?,
        configs: body.configs()?,
    })
}

fn partitions_added(body: &mut Bytes<'_>) -> Option<Change> {
    let id = body.topic_id()?;
    let first = i32::from_le_bytes(body.array()?);
    Some(Change::PartitionsAdded {
        id,
        first,
        partitions: body.places()?,
    })
}

fn topic_configs_set(body: &mut Bytes<'_>) -> Option<Change> {
    Some(Change::TopicConfigsSet {
        id: body.topic_id()?,
        configs: body.configs()?,
    })
}

fn broker_configs_set(body: &mut Bytes<'_>) -> Option<Change> {
    let [kind] = body.array()?;
    let node = NodeId(body.u16()?);
    let scope = match kind {
        SCOPE_CLUSTER => ConfigScope::Cluster,
        SCOPE_NODE => ConfigScope::Node(node),
        _ => return None,
    };
    Some(Change::BrokerConfigsSet {
        scope,
        configs: body.configs()?,
    })
}

fn producer_ids_allocated(body: &mut Bytes<'_>) -> Option<Change> {
    let first = i64::from_le_bytes(body.array()?);
    Some(Change::ProducerIdsAllocated {
        first,
        count: u32::from_le_bytes(body.array()?),
    })
}

fn deleted_topics_set(body: &mut Bytes<'_>) -> Option<Change> {
    let count = body.length()?;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(body.topic_id()?);
    }
    Some(Change::DeletedTopicsSet { ids })
}

fn lanes_added(body: &mut Bytes<'_>) -> Option<Change> {
    Some(Change::LanesAdded {
        node: NodeId(body.u16()?),
        lanes: body.u16()?,
    })
}

/// Bytes that are read from the front. Nothing is allocated by what a count says.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn length(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let len = self.length()?;
        std::str::from_utf8(self.take(len)?).ok().map(str::to_owned)
    }

    fn topic_id(&mut self) -> Option<TopicId> {
        self.array().map(TopicId)
    }

    fn configs(&mut self) -> Option<ConfigMap> {
        let count = self.length()?;
        let mut configs = ConfigMap::new();
        for _ in 0..count {
            configs.insert(self.text()?, self.text()?);
        }
        Some(configs)
    }

    fn places(&mut self) -> Option<Vec<PartitionPlace>> {
        let count = self.length()?;
        let mut places = Vec::new();
        for _ in 0..count {
            let lane = self.u16()?;
            let leader = NodeId(self.u16()?);
            let leader_epoch = LeaderEpoch(i32::from_le_bytes(self.array()?));
            let [replica_count] = self.array()?;
            let mut replicas = Vec::with_capacity(usize::from(replica_count));
            for _ in 0..replica_count {
                replicas.push(NodeId(self.u16()?));
            }
            places.push(PartitionPlace {
                lane,
                leader,
                replicas,
                leader_epoch,
            });
        }
        Some(places)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One of each kind.
    pub(in super::super) fn samples() -> Vec<Change> {
        let id = TopicId(*b"0123456789abcdef");
        let place = PartitionPlace {
            lane: 3,
            leader: NodeId(0),
            replicas: vec![NodeId(0)],
            leader_epoch: LeaderEpoch(2),
        };
        let configs = ConfigMap::from([("retention.ms".to_owned(), "5".to_owned())]);
        vec![
            Change::TopicCreated {
                name: "orders".to_owned(),
                id,
                partitions: vec![place.clone()],
                configs: configs.clone(),
            },
            Change::PartitionsAdded {
                id,
                first: 1,
                partitions: vec![place.clone(), place],
            },
            Change::TopicConfigsSet {
                id,
                configs: ConfigMap::new(),
            },
            Change::BrokerConfigsSet {
                scope: ConfigScope::Cluster,
                configs: configs.clone(),
            },
            Change::BrokerConfigsSet {
                scope: ConfigScope::Node(NodeId(0)),
                configs,
            },
            Change::ProducerIdsAllocated {
                first: 1_000,
                count: 1_000,
            },
            Change::TopicDeleted { id },
            Change::DeletedTopicsSet { ids: vec![id] },
            Change::LanesAdded {
                node: NodeId(0),
                lanes: 4,
            },
        ]
    }

    #[test]
    fn changes_come_back_as_they_were() {
        // Proves the round trip of every kind, one after the other.
        let mut bytes = Vec::new();
        for change in samples() {
            encode(&change, &mut bytes);
        }
        let mut bytes = Bytes(&bytes);
        for change in samples() {
            assert_eq!(decode(&mut bytes), Ok(change));
        }
        assert!(bytes.0.is_empty());
    }

    #[test]
    fn layouts_stay_as_they_were_released() {
        // Proves that what earlier versions wrote still reads: these bytes never change.
        let mut bytes = Vec::new();
        encode(&samples()[0], &mut bytes);
        let golden = b"\x01\x00\x42\x00\x00\x00\
            \x06\x00\x00\x00orders0123456789abcdef\
            \x01\x00\x00\x00\x03\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\
            \x01\x00\x00\x00\x0c\x00\x00\x00retention.ms\x01\x00\x00\x005";
        assert_eq!(bytes, golden, "{bytes:?}");
        bytes.clear();
        encode(&samples()[5], &mut bytes);
        assert_eq!(
            bytes,
            b"\x06\x00\x0c\x00\x00\x00\xe8\x03\0\0\0\0\0\0\xe8\x03\0\0"
        );
        bytes.clear();
        encode(&samples()[7], &mut bytes);
        assert_eq!(
            bytes,
            b"\x07\x00\x14\x00\x00\x00\x01\x00\x00\x000123456789abcdef"
        );
        bytes.clear();
        encode(&samples()[8], &mut bytes);
        assert_eq!(bytes, b"\x08\x00\x04\x00\x00\x00\x00\x00\x04\x00");
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        // Proves that every cut and a later version's kind are told apart from good changes.
        for change in samples() {
            let mut bytes = Vec::new();
            encode(&change, &mut bytes);
            for cut in 0..bytes.len() {
                decode(&mut Bytes(&bytes[..cut])).expect_err("cut short");
            }
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0x80;
                // Any answer will do, as long as there is one.
                let _ = decode(&mut Bytes(&flipped));
            }
        }
        let unknown = decode(&mut Bytes(b"\x63\x00\x01\x00\x00\x00x"));
        assert_eq!(unknown, Err(RecordError::UnknownType(99)));
        let longer = decode(&mut Bytes(
            &[&b"\x02\x00\x11\x00\x00\x00"[..], &[0; 17]].concat(),
        ));
        assert_eq!(
            longer,
            Err(RecordError::Malformed {
                kind: 2,
                what: "bytes are left over"
            })
        );
    }
}
