//! The keeper: what a lane does behind its appends, one step at a time.
//!
//! A flush comes first, because appends may wait for it; then what is dead is freed, in memory and on disk; then a merge
//! or a cleaning goes on by one step of at most 256 KiB. So work of any size delays a flush by one
//! step.

use std::rc::Rc;

use streambus_shards::yield_if_needed;

use super::Lane;
use super::clean::Cleaning;
use super::flush::flushable;
use super::merge::Merging;
use crate::error::StorageError;

/// What is done in steps, one at a time.
enum Work {
    Merge(Box<Merging>),
    Clean(Box<Cleaning>),
}

/// Keeps the lane in order. Ends when it is closed or stopped.
pub(super) async fn keep(lane: Rc<Lane>) {
    let mut work = None;
    loop {
        if lane.is_ending() {
            lane.abandon(work.take()).await;
            return;
        }
        let step = match lane.keep_step(&mut work).await {
            Ok(true) => {
                yield_if_needed().await;
                Ok(())
            }
            Ok(false) => {
                lane.keeper_wake.notified().await;
                Ok(())
            }
            Err(error) if error.is_no_space() => lane.make_space(work.take(), &error).await,
            Err(error) => Err(error),
        };
        if let Err(error) = step {
            return lane.fail(&error);
        }
    }
}

impl Lane {
    /// Does the next thing; says whether there was one.
    async fn keep_step(&self, work: &mut Option<Work>) -> Result<bool, StorageError> {
        let memtable = flushable(&self.state.borrow());
        if let Some(memtable) = memtable {
            self.flush_memtable(&memtable).await?;
            return Ok(true);
        }
        self.drop_unneeded().await;
        if self.collect_dead().await? {
            return Ok(true);
        }
        if work.is_none() {
            *work = self.begin_work();
        }
        self.work_step(work).await
    }

    /// Space comes first, then what topics ask for, then what is only tidier.
    fn begin_work(&self) -> Option<Work> {
        let merge = |merging| Work::Merge(Box::new(merging));
        let clean = |cleaning| Work::Clean(Box::new(cleaning));
        let rewrite = self.begin_rewrite().map(merge);
        let cleaning = || self.begin_cleaning().map(clean);
        rewrite
            .or_else(cleaning)
            .or_else(|| self.begin_merge().map(merge))
    }

    async fn work_step(&self, work: &mut Option<Work>) -> Result<bool, StorageError> {
        let stepped = match work {
            None => return Ok(false),
            Some(Work::Merge(merging)) => self.merge_step(merging).await,
            Some(Work::Clean(cleaning)) => self.clean_step(cleaning).await,
        };
        let error = match stepped {
            Ok(true) => return Ok(true),
            Ok(false) => {
                *work = None;
                return Ok(true);
            }
            Err(error) => error,
        };
        let unreadable = match work {
            None => None,
            Some(Work::Merge(merging)) => merging.unreadable(&error),
            Some(Work::Clean(cleaning)) => cleaning.unreadable(&error),
        };
        let Some(id) = unreadable else {
            return Err(error);
        };
        // What can be read of the table is read from where it lies; nothing else suffers.
        tracing::error!(dir = %self.dir.display(), %error, "a table is left as it is");
        self.note_error(&error);
        if let Some(live) = self.state.borrow_mut().tables.get_mut(&id) {
            live.unreadable = true;
        }
        self.abandon(work.take()).await;
        Ok(true)
    }

    async fn abandon(&self, work: Option<Work>) {
        match work {
            None => {}
            Some(Work::Merge(merging)) => self.abandon_merge(*merging).await,
            Some(Work::Clean(cleaning)) => self.abandon_cleaning(*cleaning).await,
        }
    }

    /// The disk is full: gives back what unfinished work took, then what is dead, else waits.
    async fn make_space(
        &self,
        work: Option<Work>,
        error: &StorageError,
    ) -> Result<(), StorageError> {
        // A rewrite is how space comes back: it would begin again at once.
        let given_up = match &work {
            None => false,
            Some(Work::Merge(merging)) => !merging.gives_back(),
            Some(Work::Clean(_)) => true,
        };
        self.abandon(work).await;
        match self.collect_dead().await {
            Ok(freed) if freed || given_up => Ok(()),
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
