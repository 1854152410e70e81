//! Control batches: the markers with which a broker ends a transaction in a partition's log.

use super::batch::{Attributes, BatchView};
use super::builder::{BatchBuilder, NewRecord};
use super::compression::{Codec, DecompressLimits};
use super::error::RecordsError;
use crate::ids::{ProducerEpoch, ProducerId};

/// What the first record of a control batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlKind {
    /// The transaction was aborted.
    Abort,
    /// The transaction was committed.
    Commit,
    /// Something of Kafka's own controllers, to be skipped.
    Other(i16),
}

/// The end of a transaction in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTransactionMarker {
    /// [`ControlKind::Commit`] or [`ControlKind::Abort`].
    pub kind: ControlKind,
    /// Epoch of the transaction coordinator that decided, against a deposed one's markers.
    pub coordinator_epoch: i32,
}

impl EndTransactionMarker {
    /// The batch that says so, for the broker to append.
    pub fn to_batch(
        self,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        timestamp: i64,
    ) -> Vec<u8> {
        let kind: i16 = match self.kind {
            ControlKind::Abort => 0,
            ControlKind::Commit => 1,
            ControlKind::Other(number) => number,
        };
        // Both begin with their own version, 0.
        let [kind_high, kind_low] = kind.to_be_bytes();
        let key = [0, 0, kind_high, kind_low];
        let [e0, e1, e2, e3] = self.coordinator_epoch.to_be_bytes();
        let value = [0, 0, e0, e1, e2, e3];
        let mut builder = BatchBuilder::new(Codec::None);
        // Markers have no sequence: they are not the producer's.
        builder.set_producer(producer_id, producer_epoch, -1);
        builder.set_flags(Attributes::TRANSACTIONAL | Attributes::CONTROL);
        builder.push(&NewRecord {
            timestamp,
            key: Some(&key),
            value: Some(&value),
            ..NewRecord::default()
        });
        builder.build()
    }

    /// Reads the marker out of a control batch; `None` if the batch is none, or of a kind that
    /// does not end a transaction.
    ///
    /// # Errors
    /// [`RecordsError::Corrupt`] if it cannot be read.
    pub fn of_batch(batch: &BatchView<'_>) -> Result<Option<Self>, RecordsError> {
        const SHORT: RecordsError = RecordsError::Corrupt("control record cut short");
        if !batch.attributes().is_control() {
            return Ok(None);
        }
        let mut scratch = Vec::new();
        let mut records = batch.records(&mut scratch, DecompressLimits::default())?;
        let Some(record) = records.next().transpose()? else {
            return Ok(None);
        };
        // Later versions may append fields: only these are read, whatever the version.
        let key = record
            .key
            .and_then(|key| key.first_chunk::<4>())
            .ok_or(SHORT)?;
        let [_, _, kind_high, kind_low] = *key;
        let kind = match i16::from_be_bytes([kind_high, kind_low]) {
            0 => ControlKind::Abort,
            1 => ControlKind::Commit,
            _ => return Ok(None),
        };
        let value = record
            .value
            .and_then(|value| value.first_chunk::<6>())
            .ok_or(SHORT)?;
        let [_, _, e0, e1, e2, e3] = *value;
        let coordinator_epoch = i32::from_be_bytes([e0, e1, e2, e3]);
        Ok(Some(EndTransactionMarker {
            kind,
            coordinator_epoch,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_come_back() {
        // A marker reads as written, verifies as a batch, and no client may produce it.
        for kind in [ControlKind::Abort, ControlKind::Commit] {
            let marker = EndTransactionMarker {
                kind,
                coordinator_epoch: 7,
            };
            let bytes = marker.to_batch(ProducerId(4), ProducerEpoch(2), 99);
            let batch = BatchView::split_first(&bytes).unwrap().0;
            batch.verify().unwrap();
            assert!(batch.attributes().is_transactional());
            assert_eq!(batch.producer_id(), Some(ProducerId(4)));
            assert_eq!(EndTransactionMarker::of_batch(&batch), Ok(Some(marker)));
            assert!(matches!(
                BatchView::produced(&bytes),
                Err(RecordsError::Invalid(_))
            ));
        }
    }
}
