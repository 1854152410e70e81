//! The bytes of a file: pages, of which those that hold only zeros are not there.

use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes of a page, the unit in which contents are kept and room is counted.
pub(crate) const PAGE_BYTES: usize = 4_096;
/// Bytes of a sector, the unit that a power failure leaves old or new.
pub(crate) const SECTOR_BYTES: usize = 512;
/// Sectors of a page.
pub(crate) const SECTORS: usize = PAGE_BYTES / SECTOR_BYTES;

/// A page's bytes. Two versions of a file share the pages in which they do not differ.
pub(crate) type Page = Rc<[u8; PAGE_BYTES]>;

static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Whether all of `bytes`, at most a page, are zero.
pub(crate) fn are_zeros(bytes: &[u8]) -> bool {
    bytes == &ZEROS[..bytes.len()]
}

/// One version of a file's bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pages(BTreeMap<u64, Page>);

impl Pages {
    /// A page; `None` if it holds zeros.
    pub(crate) fn get(&self, number: u64) -> Option<&Page> {
        self.0.get(&number)
    }

    /// Puts a page in place of what was there.
    pub(crate) fn put(&mut self, number: u64, page: Option<Page>) {
        match page {
            Some(page) => drop(self.0.insert(number, page)),
            None => drop(self.0.remove(&number)),
        }
    }

    /// Copies what is at `position` into `into`.
    pub(crate) fn read(&self, position: u64, into: &mut [u8]) {
        let mut done = 0;
        for (number, range) in pieces(position, into.len()) {
            let piece = &mut into[done..done + range.len()];
            done += range.len();
            match self.0.get(&number) {
                Some(page) => piece.copy_from_slice(&page[range]),
                None => piece.fill(0),
            }
        }
    }

    /// Writes `bytes`, which lie in one page, at `start` of it.
    pub(crate) fn write(&mut self, number: u64, start: usize, bytes: &[u8]) {
        let whole = bytes.len() == PAGE_BYTES;
        if whole && are_zeros(bytes) {
            self.0.remove(&number);
            return;
        }
        let page = self.0.entry(number).or_insert_with(|| Rc::new(ZEROS));
        Rc::make_mut(page)[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Copies one sector of another version's page.
    pub(crate) fn copy_sector(&mut self, number: u64, sector: usize, from: Option<&Page>) {
        let start = sector * SECTOR_BYTES;
        let bytes = from.map_or(&ZEROS[..SECTOR_BYTES], |page| {
            &page[start..start + SECTOR_BYTES]
        });
        if self.0.contains_key(&number) || !are_zeros(bytes) {
            self.write(number, start, bytes);
        }
    }

    /// Forgets what lies at `len` and behind.
    pub(crate) fn cut(&mut self, len: u64) {
        let (number, start) = place(len);
        drop(self.0.split_off(&(number + u64::from(start > 0))));
        if let Some(page) = self.0.get_mut(&number).filter(|_| start > 0) {
            Rc::make_mut(page)[start..].fill(0);
        }
    }

    /// The numbers of the pages at `from` and behind that hold more than zeros.
    pub(crate) fn numbers_from(&self, from: u64) -> impl Iterator<Item = u64> {
        self.0.range(from..).map(|(number, _)| *number)
    }
}

/// The page of a position, and where in it.
pub(crate) fn place(position: u64) -> (u64, usize) {
    let page = PAGE_BYTES as u64;
    let start = usize::try_from(position % page).expect("below a page");
    (position / page, start)
}

/// The parts of a range by page: the page's number, and the range in it.
pub(crate) fn pieces(
    position: u64,
    len: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let (number, start) = place(position + done as u64);
        let take = (PAGE_BYTES - start).min(len - done);
        done += take;
        Some((number, start..start + take))
    })
}
