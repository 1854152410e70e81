//! The keeper: what a lane does behind its appends, one step at a time.
//!
//! A flush comes first, because appends may wait for it; then what is dead is freed; then a merge
//! goes on by one step of at most 256 KiB. So a merge of any size delays a flush by one step.

use std::rc::Rc;

use streambus_shards::yield_if_needed;

use super::Lane;
use super::flush::flushable;
use super::merge::Merging;
use crate::error::StorageError;

/// Keeps the lane in order. Ends when it is closed or stopped.
pub(super) async fn keep(lane: Rc<Lane>) {
    let mut merging = None;
    loop {
        if lane.is_ending() {
            if let Some(unfinished) = merging {
                lane.abandon_merge(unfinished).await;
            }
            return;
        }
        let step = match lane.keep_step(&mut merging).await {
            Ok(true) => {
                yield_if_needed().await;
                Ok(())
            }
            Ok(false) => {
                lane.keeper_wake.notified().await;
                Ok(())
            }
            Err(error) if error.is_no_space() => lane.make_space(&mut merging, &error).await,
            Err(error) => Err(error),
        };
        if let Err(error) = step {
            return lane.fail(&error);
        }
    }
}

impl Lane {
    /// Does the next thing; says whether there was one.
    async fn keep_step(&self, merging: &mut Option<Merging>) -> Result<bool, StorageError> {
        let memtable = flushable(&self.state.borrow());
        if let Some(memtable) = memtable {
            self.flush_memtable(&memtable).await?;
            return Ok(true);
        }
        if self.collect_dead().await? {
            return Ok(true);
        }
        if merging.is_none() {
            *merging = self.begin_merge();
        }
        self.merge_step(merging).await
    }

    /// The disk is full: gives back what a merge took, then what is dead, else waits.
    async fn make_space(
        &self,
        merging: &mut Option<Merging>,
        error: &StorageError,
    ) -> Result<(), StorageError> {
        let unfinished = merging.take();
        let merged = unfinished.is_some();
        if let Some(unfinished) = unfinished {
            self.abandon_merge(unfinished).await;
        }
        match self.collect_dead().await {
            Ok(freed) if freed || merged => Ok(()),
            Ok(_) => {
                self.wait_for_space(error).await;
                Ok(())
            }
            Err(again) if again.is_no_space() => {
                self.wait_for_space(error).await;
                Ok(())
            }
            Err(failed) => Err(failed),
        }
    }
}
