//! Verifies the lane's tables again and again, and remembers what does not hold.
//!
//! Damage stops nothing: what verifies is read as before, and what does not is never deleted. A merge or a
//! cleaning leaves such a table as it is.

use std::ops::Range;
use std::rc::Rc;

use streambus_shards::{now, timeout};

use super::Lane;
use super::state::State;
use crate::damage::Damage;
use crate::error::StorageError;
use crate::scrub::{Scrub, ScrubPace, ScrubStep, ScrubTable};
use crate::table::reader::Table;

/// Scrubs. Ends when the lane is closed or stopped.
pub(super) async fn scrub(lane: Rc<Lane>, pace: ScrubPace) {
    let mut scrub = Scrub::new(pace, now());
    while !lane.is_ending() {
        match lane.next_step(&mut scrub) {
            ScrubStep::Wait(wait) => {
                // Woken or over: both lead to the next look.
                let _ = timeout(wait, lane.scrub_wake.notified()).await;
            }
            ScrubStep::Blocks { table, blocks } => lane.scrub_blocks(table, blocks).await,
            ScrubStep::End { table } => lane.scrub_end(table).await,
        }
    }
}

impl Lane {
    /// How many places of the lane's tables are known to be damaged, and the first of them.
    pub fn damage(&self) -> Option<(usize, Damage)> {
        let mut state = self.state.borrow_mut();
        let (table, position, what) = state.current_damage()?;
        let file = state.tables.get(table)?.table.path().to_owned();
        let first = Damage {
            file,
            position,
            what,
        };
        Some((state.damage.len(), first))
    }

    /// Remembers what a read of a table came upon.
    pub(super) fn note_error(&self, error: &StorageError) {
        let StorageError::Corrupt { file, .. } = error else {
            return;
        };
        let table = {
            let state = self.state.borrow();
            let mut tables = state.tables.iter().map(|live| &live.table);
            tables.find(|table| table.path() == file).cloned()
        };
        if let Some(table) = table {
            self.note_damaged(&table, 0, error);
        }
    }

    fn next_step(&self, scrub: &mut Scrub) -> ScrubStep {
        let mut state = self.state.borrow_mut();
        let from = |id| {
            let live = state.tables.first_from(id)?;
            Some(ScrubTable {
                id: live.table.id(),
                data_bytes: live.table.footer.data_bytes,
                file_bytes: live.table.file_bytes,
                block_bytes: live.table.footer.block_bytes as u64,
            })
        };
        let step = scrub.step(now(), state.next_table_id, from);
        state.stats.scrub_passes = scrub.passes();
        step
    }

    async fn scrub_blocks(&self, id: u64, blocks: Range<u64>) {
        let Some(table) = self.table(id) else { return };
        if table.read_blocks(blocks.clone()).await.is_ok() {
            self.note_sound(&table, &blocks);
        } else {
            for block in table.single_blocks(blocks.clone()) {
                match table.read_blocks(block.clone()).await {
                    Ok(_) => self.note_sound(&table, &block),
                    Err(error) => self.note_damaged(&table, block.start, &error),
                }
            }
        }
        self.state.borrow_mut().stats.scrubbed_bytes += blocks.end - blocks.start;
    }

    async fn scrub_end(&self, id: u64) {
        let Some(table) = self.table(id) else { return };
        let end = table.footer.data_bytes..table.file_bytes;
        let path = table.path().to_owned();
        let files = &self.table_files;
        match Table::open_in(files, path, id, self.nonce, table.file_bytes).await {
            Ok(_) => self.note_sound(&table, &end),
            Err(error) => self.note_damaged(&table, end.start, &error),
        }
        self.state.borrow_mut().stats.scrubbed_bytes += end.end - end.start;
    }

    fn table(&self, id: u64) -> Option<Rc<Table>> {
        let state = self.state.borrow();
        Some(Rc::clone(&state.tables.get(id)?.table))
    }

    fn note_sound(&self, table: &Table, bytes: &Range<u64>) {
        let cleared = self.state.borrow_mut().damage.clear(table.id(), bytes);
        if cleared > 0 {
            let (file, position) = (table.path().display(), bytes.start);
            tracing::info!(%file, position, "what did not verify before does now");
        }
    }

    /// Notes damage that lies at `least` or behind.
    fn note_damaged(&self, table: &Table, least: u64, error: &StorageError) {
        if error.is_out_of_descriptors() {
            // It was not looked at. The next pass does.
            return;
        }
        let (position, what) = match error {
            StorageError::Corrupt { position, what, .. } => (*position.max(&least), *what),
            _ => (least, "it can't be read"),
        };
        let mut state = self.state.borrow_mut();
        // A table that left the lane meanwhile is nobody's any more.
        let is_there = state.tables.contains(table.id());
        if !is_there || !state.damage.note(table.id(), position, what) {
            return;
        }
        state.stats.damage_found += 1;
        drop(state);
        tracing::error!(
            file = %table.path().display(),
            position,
            what,
            "a table is damaged: reads of these bytes are refused; stop the node and see `streambus storage verify`"
        );
    }
}

impl State {
    /// The first damaged place among the tables that there are.
    fn current_damage(&mut self) -> Option<(u64, u64, &'static str)> {
        let State { damage, tables, .. } = self;
        damage.retain_tables(|table| tables.contains(table));
        damage.first()
    }
}
