//! The keeper: what a lane does behind its appends, one step at a time.
//!
//! A flush comes first, because appends may wait for it; then what is dead is freed, in memory and on
//! disk; then a merge or a cleaning goes on by one step: 256 KiB, or one batch that is larger, or the
//! end of a table. So work of any size delays a flush by one step. Only on a full disk a flush waits
//! for a whole rewrite, which gives it space.

use std::rc::Rc;

use streambus_shards::{sleep, yield_if_needed};

use super::Lane;
use super::clean::Cleaning;
use super::flush::flushable;
use super::gather::Gathering;
use super::merge::Merging;
use crate::error::StorageError;

/// What is done in steps, one at a time.
enum Work {
    Merge(Box<Merging>),
    Clean(Box<Cleaning>),
    Gather(Box<Gathering>),
}

impl Work {
    /// Whether it is there to give space back.
    fn gives_back(&self) -> bool {
        match self {
            Work::Merge(merging) => merging.gives_back(),
            Work::Clean(_) | Work::Gather(_) => false,
        }
    }
}

/// What the keeper is at.
#[derive(Default)]
struct Keeper {
    work: Option<Work>,
    /// A flush found no space, and waits for what the rewrite under way gives back.
    flush_waits: bool,
    /// There was a cleaning since the last merge.
    cleaned_last: bool,
}

/// Keeps the lane in order. Ends when it is closed or stopped.
pub(super) async fn keep(lane: Rc<Lane>) {
    let mut keeper = Keeper::default();
    loop {
        if lane.is_ending() {
            lane.abandon(keeper.work.take()).await;
            return;
        }
        let step = match lane.keep_step(&mut keeper).await {
            Ok(true) => {
                yield_if_needed().await;
                Ok(())
            }
            Ok(false) => {
                lane.keeper_wake.notified().await;
                Ok(())
            }
            Err(error) if error.is_no_space() => lane.make_space(&mut keeper, &error).await,
            Err(error) => Err(error),
        };
        if let Err(error) = step {
            return lane.fail(&error);
        }
    }
}

impl Lane {
    /// Does the next thing; says whether there was one.
    async fn keep_step(&self, keeper: &mut Keeper) -> Result<bool, StorageError> {
        let memtable = flushable(&self.state.borrow());
        if let Some(memtable) = memtable.filter(|_| !keeper.flush_waits) {
            match self.flush_memtable(&memtable).await {
                Err(error) if error.is_no_space() => self.make_room(keeper, &error).await?,
                flushed => flushed?,
            }
            return Ok(true);
        }
        self.drop_unneeded().await;
        if self.collect_dead().await? {
            keeper.flush_waits = false;
            return Ok(true);
        }
        if keeper.work.is_none() {
            if std::mem::take(&mut keeper.flush_waits) {
                return Ok(true);
            }
            keeper.work = self.begin_work(keeper.cleaned_last);
            match &keeper.work {
                Some(Work::Clean(_)) => keeper.cleaned_last = true,
                Some(merge) if !merge.gives_back() => keeper.cleaned_last = false,
                _ => {}
            }
        }
        self.work_step(&mut keeper.work).await
    }

    /// Space comes first; then what topics ask for takes turns with what is only tidier: there may
    /// always be another partition to clean.
    fn begin_work(&self, cleaned_last: bool) -> Option<Work> {
        let merge = |merging| Work::Merge(Box::new(merging));
        let rewrite = self.begin_rewrite().map(merge);
        let gathering = || Some(Work::Gather(Box::new(self.begin_gathering()?)));
        let merging = || self.begin_merge().map(merge).or_else(gathering);
        let cleaning = || Some(Work::Clean(Box::new(self.begin_cleaning()?)));
        if cleaned_last {
            rewrite.or_else(merging).or_else(cleaning)
        } else {
            rewrite.or_else(cleaning).or_else(merging)
        }
    }

    async fn work_step(&self, work: &mut Option<Work>) -> Result<bool, StorageError> {
        let stepped = match work {
            None => return Ok(false),
            Some(Work::Merge(merging)) => self.merge_step(merging).await,
            Some(Work::Clean(cleaning)) => self.clean_step(cleaning).await,
            Some(Work::Gather(gathering)) => self.gather_step(gathering).await,
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
            Some(Work::Gather(gathering)) => gathering.unreadable(&error),
        };
        let Some(id) = unreadable else {
            return Err(error);
        };
        if error.is_out_of_descriptors() {
            // Sockets have them: nothing is wrong with the table.
            tracing::warn!(dir = %self.dir.display(), %error, "a table can't be opened now; it is tried again");
            self.abandon(work.take()).await;
            let retry = self.state.borrow().config.no_space_retry;
            sleep(retry).await;
            return Ok(true);
        }
        // What can be read of the table is read from where it lies; nothing else suffers.
        tracing::error!(dir = %self.dir.display(), %error, "a table is left as it is");
        self.note_error(&error);
        self.state.borrow_mut().tables.set_unreadable(id);
        self.abandon(work.take()).await;
        Ok(true)
    }

    async fn abandon(&self, work: Option<Work>) {
        match work {
            None => {}
            Some(Work::Merge(merging)) => self.abandon_merge(*merging).await,
            Some(Work::Clean(cleaning)) => self.abandon_cleaning(*cleaning).await,
            Some(Work::Gather(gathering)) => self.abandon_gathering(*gathering).await,
        }
    }

    /// Something behind the appends found no space: gives back what it took, then what is dead, else
    /// waits.
    async fn make_space(
        &self,
        keeper: &mut Keeper,
        error: &StorageError,
    ) -> Result<(), StorageError> {
        keeper.flush_waits = false;
        let work = keeper.work.take();
        // A rewrite would begin again at once.
        let given_up = work.as_ref().is_some_and(|work| !work.gives_back());
        self.abandon(work).await;
        if !self.collected().await? && !given_up {
            self.wait_for_space(error).await;
        }
        Ok(())
    }

    /// A flush found no space: gives back what unfinished work took, then what is dead, then what a
    /// rewrite can, else waits. A rewrite under way goes on: it is how space comes back.
    async fn make_room(
        &self,
        keeper: &mut Keeper,
        error: &StorageError,
    ) -> Result<(), StorageError> {
        let given_up = keeper.work.take_if(|work| !work.gives_back());
        let was_work = given_up.is_some();
        self.abandon(given_up).await;
        if self.collected().await? || was_work {
            return Ok(());
        }
        if keeper.work.is_none() {
            let rewrite = self.begin_rewrite_that_fits();
            keeper.work = rewrite.map(|merging| Work::Merge(Box::new(merging)));
        }
        keeper.flush_waits = keeper.work.is_some();
        if !keeper.flush_waits {
            self.wait_for_space(error).await;
        }
        Ok(())
    }

    /// Removes dead tables, if there is the space that even this takes; says whether it did.
    async fn collected(&self) -> Result<bool, StorageError> {
        match self.collect_dead().await {
            Err(error) if error.is_no_space() => Ok(false),
            collected => collected,
        }
    }
}
