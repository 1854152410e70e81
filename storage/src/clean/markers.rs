//! When the markers that end transactions may go.
//!
//! A marker is needed as long as a record of its transaction is there. So a pass over the log notes
//! whose transactional batches it has met, gone in this pass or not; a marker that follows none is
//! given its horizon then, and goes in a pass after it (`delete.retention.ms`), as tombstones do: whoever
//! reads the log from its start within that time sees how each transaction ended.
//!
//! What a producer's last marker says of its epoch need not be kept in the log for it: the owner's
//! annotation has it.

use std::collections::BTreeSet;

use streambus_proto::records::{
    BatchBuilder, BatchView, ControlKind, EndTransactionMarker, RecordsError,
};

use super::{CleanPolicy, LIMITS, Remains, in_place};

/// Producers that a pass keeps track of. Beyond them it drops no marker at all.
const PRODUCERS_MAX: usize = 1 << 16;

/// What a pass over a log has met: the transactions that it is in the midst of, and what it left.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Producers with transactional batches since their last marker.
    producers: BTreeSet<i64>,
    /// There were more than can be kept track of.
    lost_track: bool,
    /// A batch of records was left as it was because it could not be read.
    pub(super) left_unread: bool,
}

impl Passed {
    /// A batch of records was met.
    pub(super) fn see(&mut self, batch: &BatchView<'_>) {
        let producer = batch.producer_id();
        if let Some(producer) = producer.filter(|_| batch.attributes().is_transactional()) {
            self.lost_track |= self.producers.len() >= PRODUCERS_MAX;
            if !self.lost_track {
                self.producers.insert(producer.0);
            }
        }
    }

    /// What remains of a control batch.
    pub(super) fn marker(
        &mut self,
        batch: &BatchView<'_>,
        policy: &CleanPolicy,
        now_ms: i64,
        must_stay: bool,
    ) -> Result<Remains, RecordsError> {
        let marker = EndTransactionMarker::of_batch(batch)?;
        let ends = marker.filter(|marker| !matches!(marker.kind, ControlKind::Other(_)));
        let (Some(_), Some(producer)) = (ends, batch.producer_id()) else {
            return Ok(Remains::Whole);
        };
        let has_records = self.producers.remove(&producer.0);
        if has_records || self.lost_track {
            return Ok(Remains::Whole);
        }
        if !batch.attributes().has_delete_horizon() {
            let horizon = now_ms.saturating_add(policy.delete_retention_ms);
            return with_horizon(batch, horizon).map(Remains::Part);
        }
        let expired = now_ms >= batch.base_timestamp() && !must_stay;
        Ok(if expired {
            Remains::Nothing
        } else {
            Remains::Whole
        })
    }
}

fn with_horizon(batch: &BatchView<'_>, horizon_ms: i64) -> Result<Vec<u8>, RecordsError> {
    let mut builder = BatchBuilder::remaining_of(batch, Some(horizon_ms))?;
    let mut scratch = Vec::new();
    for record in in_place(batch, batch.records(&mut scratch, LIMITS)?) {
        builder.push_again(&record?);
    }
    builder.stretch_to(batch.last_offset_delta());
    Ok(builder.build())
}
