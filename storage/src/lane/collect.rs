//! Removes what nobody needs any more: batches in memory, tables on disk.

use streambus_shards::{DiskError, disk, planted, yield_if_needed};

use super::Lane;
use super::state::ObsoleteTable;
use crate::error::StorageError;
use crate::names;
use crate::table::reader::Table;
use crate::table::writer::TableWriter;

impl Lane {
    /// Drops the batches in memory that nobody reads any more, while others have their turns.
    pub(super) async fn drop_unneeded(&self) {
        while self.state.borrow_mut().drop_some() {
            yield_if_needed().await;
        }
    }

    /// Removes tables that were given up. One whose file can't be removed waits for the next time; returns why the last
    /// such one can't.
    pub(super) async fn remove_abandoned(&self) -> Option<StorageError> {
        let abandoned = std::mem::take(&mut self.state.borrow_mut().abandoned);
        let mut failed = None;
        for id in abandoned {
            if let Err(error) = TableWriter::abandon(&self.dir, id).await {
                failed = Some(error);
                self.state.borrow_mut().abandoned.push(id);
            }
        }
        failed
    }

    /// Removes tables that no partition needs; says whether there were any.
    ///
    /// The file of one that is read still is held for its readers. When too many are held its name stays: the keeper is
    /// woken when it is read no more.
    pub(super) async fn collect_dead(&self) -> Result<bool, StorageError> {
        self.remove_abandoned().await;
        let mut dead = Vec::new();
        for obsolete in self.take_dead_tables() {
            let read = obsolete.read.upgrade();
            let may_go = match read {
                None => true,
                Some(table) => self.may_lose_its_name(&table).await,
            };
            if may_go {
                dead.push(obsolete.id);
            }
        }
        if dead.is_empty() {
            return Ok(false);
        }
        self.with_reserve(|| self.drop_tables(&dead)).await?;
        Ok(true)
    }

    async fn may_lose_its_name(&self, table: &Table) -> bool {
        match table.hold().await {
            Ok(held) => held,
            // Without a file nobody can read it anyway.
            Err(StorageError::Corrupt { .. }) => true,
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "a table that is read still can't be held for its readers, and is removed later");
                false
            }
        }
    }

    /// Takes the tables that no partition needs out of the lane; returns those whose files are not removed yet.
    fn take_dead_tables(&self) -> Vec<ObsoleteTable> {
        let mut state = self.state.borrow_mut();
        let dead: Vec<u64> = state.tables.dead().collect();
        for id in dead {
            let live = state.tables.remove(id).expect("just found");
            state.obsolete.push(live.into());
        }
        state.obsolete.clone()
    }

    /// The manifest lets go of the tables first; then their files go.
    async fn drop_tables(&self, dead: &[u64]) -> Result<(), StorageError> {
        // They are obsolete until the files are gone: a crash in between must not leave orphans that nobody dares to
        // delete.
        let manifest = {
            let state = self.state.borrow();
            state.manifest(state.floor, &[])
        };
        self.write_manifest(&manifest).await?;
        for id in dead.iter().filter(|_| !planted::on("keep-dead-tables")) {
            let path = self.dir.join(names::table(*id));
            let failed = |source| StorageError::disk(&path, source);
            match disk::remove_file(&path).await {
                // Gone since an earlier try, which found no space for a later one.
                Ok(()) | Err(DiskError::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
            self.cache.forget(*id);
        }
        let mut state = self.state.borrow_mut();
        state.obsolete.retain(|table| !dead.contains(&table.id));
        drop(state);
        tracing::debug!(dir = %self.dir.display(), tables = dead.len(), "tables removed");
        self.space_came_back();
        Ok(())
    }
}
