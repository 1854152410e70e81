//! What one file holds: what readers see, and what would be there after a power failure.

use std::collections::BTreeMap;

use super::Draw;
use super::pages::{PAGE_BYTES, Page, Pages, SECTOR_BYTES, SECTORS, are_zeros, pieces, place};

/// A sector that was written and not made durable. Clean while `written` is 0.
#[derive(Debug, Clone, Copy, Default)]
struct Sector {
    /// The number of the write that readers see.
    written: u64,
    /// What was written up to this number is superseded: a sync that began before must not bring it back.
    base: u64,
}

impl Sector {
    fn is_dirty(self) -> bool {
        self.written != 0
    }
}

/// A file's bytes in both versions, and which sectors differ because no sync covered them yet.
#[derive(Debug, Default)]
pub(crate) struct Content {
    live: Pages,
    durable: Pages,
    len: u64,
    durable_len: u64,
    /// The number of the write that gave the file its length, and of the one whose length is durable.
    len_written: u64,
    len_base: u64,
    /// Writes and cuts so far: each has a number.
    writes: u64,
    /// Where the latest durable write (`O_DSYNC`) began.
    durable_write: u64,
    dirty: BTreeMap<u64, [Sector; SECTORS]>,
}

/// A sector before and after it was damaged.
#[derive(Debug)]
pub(crate) struct Damage {
    good: [u8; SECTOR_BYTES],
    bad: [u8; SECTOR_BYTES],
}

/// What a sync covers: everything that was written when it began.
#[derive(Debug)]
pub(crate) struct Snapshot {
    dirty: Vec<(u64, [Sector; SECTORS], Option<Page>)>,
    len: u64,
    len_written: u64,
}

/// Which of many pending things a power failure keeps. The shapes are those that recovery meets: nothing,
/// everything, a front, and holes of every density.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keep {
    /// Each with this chance out of 16.
    Each(u64),
    /// So many from the front.
    Front(u64),
}

impl Keep {
    pub(crate) fn draw(count: usize, draw: Draw<'_>) -> Keep {
        match draw(6) {
            0 => Keep::Each(0),
            1 => Keep::Each(16),
            2 => Keep::Each(1),
            3 => Keep::Each(15),
            4 => Keep::Each(8),
            _ => Keep::Front(draw(count as u64 + 1)),
        }
    }

    pub(crate) fn keeps(self, index: usize, draw: Draw<'_>) -> bool {
        match self {
            Keep::Each(of_16) => draw(16) < of_16,
            Keep::Front(count) => (index as u64) < count,
        }
    }
}

impl Content {
    /// How long readers see it, in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads up to `len` bytes at `position`: fewer at the end.
    pub(crate) fn read(&self, position: u64, len: usize) -> Vec<u8> {
        let there = self.len.saturating_sub(position);
        let len = usize::try_from(there).map_or(len, |there| there.min(len));
        let mut bytes = vec![0; len];
        self.live.read(position, &mut bytes);
        bytes
    }

    /// Writes; pending until synced.
    pub(crate) fn write(&mut self, position: u64, bytes: &[u8]) {
        self.writes += 1;
        let mut done = 0;
        for (number, range) in pieces(position, bytes.len()) {
            let piece = &bytes[done..done + range.len()];
            done += range.len();
            self.write_piece(number, range.start, piece);
        }
        let end = position + bytes.len() as u64;
        if end > self.len {
            self.len = end;
            self.len_written = self.writes;
        }
    }

    fn write_piece(&mut self, number: u64, start: usize, piece: &[u8]) {
        let nothing = self.live.get(number).is_none()
            && self.durable.get(number).is_none()
            && !self.dirty.contains_key(&number);
        // Zeros over zeros: a broker writes a whole WAL file of them, and no crash can tell.
        if nothing && are_zeros(piece) {
            return;
        }
        self.live.write(number, start, piece);
        let sectors = self.dirty.entry(number).or_default();
        let last = (start + piece.len() - 1) / SECTOR_BYTES;
        for sector in &mut sectors[start / SECTOR_BYTES..=last] {
            if !sector.is_dirty() {
                sector.base = self.writes - 1;
            }
            sector.written = self.writes;
        }
    }

    /// Cuts or extends to `len`; pending until synced.
    pub(crate) fn set_len(&mut self, len: u64) {
        if len == self.len {
            return;
        }
        self.writes += 1;
        if len < self.len {
            // What is cut off reads as zeros if the file grows again, and is old until synced.
            let (first, start) = place(len);
            let mut numbers: Vec<u64> = self.live.numbers_from(first).collect();
            numbers.extend(self.durable.numbers_from(first));
            numbers.sort_unstable();
            numbers.dedup();
            for number in numbers {
                let start = if number == first { start } else { 0 };
                self.write_piece(number, start, &vec![0; PAGE_BYTES - start]);
            }
        }
        self.len = len;
        self.len_written = self.writes;
    }

    /// What a sync that begins now covers.
    pub(crate) fn begin_sync(&self) -> Snapshot {
        let pages = self.dirty.iter();
        Snapshot {
            dirty: pages
                .map(|(number, sectors)| (*number, *sectors, self.live.get(*number).cloned()))
                .collect(),
            len: self.len,
            len_written: self.len_written,
        }
    }

    /// Makes durable what a sync covers.
    pub(crate) fn complete_sync(&mut self, snapshot: &Snapshot) {
        for (number, captured, page) in &snapshot.dirty {
            let Some(mut current) = self.dirty.remove(number) else {
                continue;
            };
            let copied: [bool; SECTORS] = std::array::from_fn(|index| {
                let (captured, current) = (captured[index], current[index]);
                captured.is_dirty() && current.is_dirty() && captured.written > current.base
            });
            if copied.iter().all(|copied| *copied) {
                self.durable.put(*number, page.clone());
            }
            for (index, _) in copied.iter().enumerate().filter(|(_, copied)| **copied) {
                if !copied.iter().all(|copied| *copied) {
                    self.durable.copy_sector(*number, index, page.as_ref());
                }
                let sector = &mut current[index];
                sector.base = captured[index].written;
                if sector.written == sector.base {
                    *sector = Sector::default();
                }
            }
            self.keep_dirty(*number, current);
        }
        if snapshot.len_written > self.len_base {
            self.durable_len = snapshot.len;
            self.len_base = snapshot.len_written;
        }
    }

    /// A sync failed: what it covers counts as clean and is not durable, and no later sync says so.
    pub(crate) fn fail_sync(&mut self, snapshot: &Snapshot) {
        for (number, captured, _) in &snapshot.dirty {
            let Some(mut current) = self.dirty.remove(number) else {
                continue;
            };
            for (sector, captured) in current.iter_mut().zip(captured) {
                if captured.is_dirty() && sector.written == captured.written {
                    *sector = Sector::default();
                }
            }
            self.keep_dirty(*number, current);
        }
    }

    fn keep_dirty(&mut self, number: u64, sectors: [Sector; SECTORS]) {
        if sectors.iter().any(|sector| sector.is_dirty()) {
            self.dirty.insert(number, sectors);
        }
    }

    /// Takes the pending sectors of a range, and lets `each` say what becomes of them.
    fn clean_range(&mut self, position: u64, len: usize, durable: bool) {
        for (number, range) in pieces(position, len) {
            let Some(mut sectors) = self.dirty.remove(&number) else {
                continue;
            };
            let page = self.live.get(number).cloned();
            let (first, last) = (range.start / SECTOR_BYTES, (range.end - 1) / SECTOR_BYTES);
            for (index, sector) in (first..).zip(&mut sectors[first..=last]) {
                if durable {
                    self.durable.copy_sector(number, index, page.as_ref());
                }
                *sector = Sector::default();
            }
            self.keep_dirty(number, sectors);
        }
    }

    /// Makes a range durable, as a write with `O_DSYNC` does, and as much of the length as reading it back needs.
    pub(crate) fn sync_range(&mut self, position: u64, len: usize) {
        self.clean_range(position, len, true);
        self.durable_write = position;
        let end = position + len as u64;
        self.durable_len = self.durable_len.max(end.min(self.len));
        if self.durable_len == self.len {
            self.len_base = self.len_written;
        }
    }

    /// As [`Content::fail_sync`], for a range.
    pub(crate) fn fail_range(&mut self, position: u64, len: usize) {
        self.clean_range(position, len, false);
    }

    /// The power fails: each pending sector is kept or lost, and so is the length.
    pub(crate) fn power_loss(&mut self, draw: Draw<'_>) {
        let dirty = std::mem::take(&mut self.dirty);
        let count = dirty
            .values()
            .flatten()
            .filter(|sector| sector.is_dirty())
            .count();
        if count > 0 {
            let keep = Keep::draw(count, draw);
            let mut seen = 0;
            for (number, sectors) in dirty {
                let page = self.live.get(number).cloned();
                for (index, _) in sectors.iter().enumerate().filter(|(_, s)| s.is_dirty()) {
                    if keep.keeps(seen, draw) {
                        self.durable.copy_sector(number, index, page.as_ref());
                    }
                    seen += 1;
                }
            }
        }
        if self.len != self.durable_len {
            self.durable_len = match draw(3) {
                0 => self.durable_len,
                1 => self.len,
                _ if self.len > self.durable_len => {
                    let between = self.durable_len + draw(self.len - self.durable_len);
                    (between - between % SECTOR_BYTES as u64).max(self.durable_len)
                }
                _ => self.len,
            };
        }
        self.durable.cut(self.durable_len);
        self.live = self.durable.clone();
        self.len = self.durable_len;
        self.len_base = self.len_written;
    }

    /// Pages that are kept in memory for what readers see.
    #[cfg(test)]
    pub(crate) fn pages(&self) -> usize {
        self.live.numbers_from(0).count()
    }

    /// Where the latest durable write began: what lies before it was durable when that was asked for, if
    /// whoever writes waits for one before the next. 0 if there was none.
    pub(crate) fn durable_write(&self) -> u64 {
        self.durable_write
    }

    /// Changes a sector on the medium, in both versions, up to the file's end. Returns what puts it back.
    pub(crate) fn damage(
        &mut self,
        position: u64,
        change: impl Fn(&mut [u8; SECTOR_BYTES]),
    ) -> [Damage; 2] {
        let there = self.len.min(self.durable_len).saturating_sub(position);
        let there = usize::try_from(there).map_or(SECTOR_BYTES, |there| there.min(SECTOR_BYTES));
        [&mut self.live, &mut self.durable].map(|version| {
            let mut good = [0; SECTOR_BYTES];
            version.read(position, &mut good);
            let mut bad = good;
            change(&mut bad);
            bad[there..].copy_from_slice(&good[there..]);
            let (number, start) = place(position);
            version.write(number, start, &bad);
            Damage { good, bad }
        })
    }

    /// Puts a damaged sector back where nothing else was written over it since; says whether it did.
    pub(crate) fn mend(&mut self, position: u64, damage: &[Damage; 2]) -> bool {
        let (number, start) = place(position);
        let mut mended = false;
        for version in [&mut self.live, &mut self.durable] {
            let mut found = [0; SECTOR_BYTES];
            version.read(position, &mut found);
            if let Some(damage) = damage.iter().find(|damage| damage.bad == found) {
                version.write(number, start, &damage.good);
                mended = true;
            }
        }
        mended
    }
}
