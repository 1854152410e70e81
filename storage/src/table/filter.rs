//! Bloom filters on record keys: which segments of a table's part may hold a key. No I/O.
//!
//! A part is cut into segments of [`SEGMENT_ENTRIES`] entries of its index. A key goes into the
//! filter together with the number of its segment, but in which page of the filter its bits lie
//! depends on the key alone: one page, read once, answers for all segments. So a filter both spares
//! the reading of a table and says which hundred kilobytes of it to read.
//!
//! It is sized so that all the segments that a filter covers, tested for a key that is in none of
//! them, give one false answer in [`FALSE_ONE_IN`] look-ups: log2(100 × segments) probes, and
//! 1.44 bits an entry for each probe. That is 10 bits a key in a small part, and 23 in one of 64 MiB.

use streambus_shards::yield_if_needed;

use super::footer::KeyFilter;

/// Index entries of a segment. Part of the format: a filter counts in segments.
pub(crate) const SEGMENT_ENTRIES: usize = 4;
/// A filter is cut into as few pages of one size as this allows.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Pages are as long as a multiple of this.
pub(crate) const PAGE_UNIT_BYTES: usize = 64;
/// Probes of an entry at most: enough for half a million segments.
pub(crate) const PROBES_MAX: u32 = 26;

/// Of so many look-ups of absent keys one finds a segment that may hold it.
const FALSE_ONE_IN: u32 = 100;
/// Entries that are gathered for one filter before it is closed, at 8 bytes each.
const ENTRIES_MAX: usize = 1 << 20;
/// Bytes of filters that wait for their table's batches to end.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// Entries that are worked on before others may run: at some 50 ns each, half a millisecond.
const STEP_ENTRIES: usize = 8 << 10;

/// A key as filters see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilterKey {
    page: u32,
    bits: u64,
}

impl FilterKey {
    /// Of the key's hash, which is the lane's: clients cannot choose keys that meet in one page.
    pub(crate) fn new(hash: u128) -> FilterKey {
        let (high, low) = ((hash >> 64) as u64, ((hash << 64) >> 64) as u64);
        FilterKey {
            page: (high >> 32) as u32,
            bits: low,
        }
    }

    /// What stands for the key in a segment: from it come the bits within the page.
    fn in_segment(self, segment: u32) -> u32 {
        // The finalizer of splitmix64: near segments must not have near bits.
        let mut mixed = self.bits ^ u64::from(segment).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 32) as u32
    }
}

/// The bits of an entry within a page of so many bits.
fn bits_of(entry: u32, probes: u32, page_bits: usize) -> impl Iterator<Item = usize> {
    // Odd, so that the probes walk through all residues before they repeat.
    let step = entry.wrapping_mul(0x9e37_79b1).rotate_left(16) | 1;
    let probe = move |nth: u32| entry.wrapping_add(nth.wrapping_mul(step));
    (0..probes).map(move |nth| scaled(probe(nth), page_bits))
}

/// Which of so many pages.
fn page_of(page: u32, pages: usize) -> usize {
    scaled(page, pages)
}

/// The number below `bound` that stands to it as `part` to 2^32.
fn scaled(part: u32, bound: usize) -> usize {
    ((u64::from(part) * bound as u64) >> 32) as usize
}

/// How a filter of so many bytes is cut into pages: their number, and the bytes of each.
pub(crate) fn pages_of(bytes: usize) -> (usize, usize) {
    let pages = bytes.div_ceil(PAGE_BYTES).max(1);
    (pages, bytes / pages)
}

impl KeyFilter {
    /// Where in the table the page lies that knows of the key.
    pub(crate) fn page_range(&self, key: FilterKey) -> std::ops::Range<u64> {
        let (pages, bytes) = pages_of(self.bytes as usize);
        let start = self.position + (page_of(key.page, pages) * bytes) as u64;
        start..start + bytes as u64
    }

    /// The segments that may hold the key, the last one first, by what the key's page says.
    pub(crate) fn segments_with(&self, key: FilterKey, page: &[u8]) -> impl Iterator<Item = u32> {
        let page_bits = page.len() * 8;
        let is_set = move |bit: usize| {
            let byte = page.get(bit / 8);
            byte.is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
        };
        let segments = self.first_segment..self.first_segment + self.segments;
        let probes = self.probes;
        segments
            .rev()
            .filter(move |segment| bits_of(key.in_segment(*segment), probes, page_bits).all(is_set))
    }
}

/// A filter whose place in the table is not known yet.
#[derive(Debug)]
pub(crate) struct BuiltFilter {
    /// Number of the part that it belongs to.
    pub(crate) part: usize,
    pub(crate) first_segment: u32,
    pub(crate) segments: u32,
    pub(crate) probes: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Builds the filters of a table while its batches are added.
#[derive(Debug, Default)]
pub(crate) struct FilterBuilder {
    part: usize,
    /// First segment of the filter in the making, and the one that is being filled.
    first_segment: u32,
    segment: u32,
    /// Page and bits of each entry so far; those of the current segment from `segment_at` on.
    entries: Vec<(u32, u32)>,
    segment_at: usize,
    /// The segment has keys that are not known: it gets no filter.
    spoilt: bool,
    built: Vec<BuiltFilter>,
    built_bytes: usize,
}

impl FilterBuilder {
    /// The next batches are in this segment of this part.
    pub(crate) async fn enter(&mut self, part: usize, segment: u32) {
        if (part, segment) == (self.part, self.segment) {
            return;
        }
        let goes_on = part == self.part && segment == self.segment + 1;
        assert!(goes_on || segment == 0, "segments are entered in order");
        self.end_segment().await;
        if !goes_on || self.entries.len() >= ENTRIES_MAX {
            self.close(self.segment + 1).await;
            self.first_segment = segment;
        }
        (self.part, self.segment) = (part, segment);
    }

    /// A key of the current segment.
    pub(crate) fn note(&mut self, key: FilterKey) {
        if self.spoilt {
            return;
        }
        let entry = key.in_segment(self.segment);
        self.entries.push((key.page, entry));
        if self.entries.len() >= 2 * ENTRIES_MAX {
            self.sort_segment();
            // Unfolded, a segment can hold any number of keys; memory for them it gets not.
            self.spoilt = self.entries.len() >= 2 * ENTRIES_MAX - ENTRIES_MAX / 4;
        }
    }

    /// The current segment has records whose keys are not known: look-ups must read it.
    pub(crate) fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// All filters, when the last batch was added.
    pub(crate) async fn finish(mut self) -> Vec<BuiltFilter> {
        self.end_segment().await;
        self.close(self.segment + 1).await;
        self.built
    }

    fn sort_segment(&mut self) {
        let mut current = self.entries.split_off(self.segment_at);
        current.sort_unstable();
        current.dedup();
        self.entries.append(&mut current);
    }

    async fn end_segment(&mut self) {
        if self.spoilt {
            self.entries.truncate(self.segment_at);
            self.close(self.segment).await;
            self.first_segment = self.segment + 1;
            self.spoilt = false;
        } else {
            self.sort_segment();
        }
        self.segment_at = self.entries.len();
    }

    /// Makes a filter of the entries: for the segments from the first one to before `end`.
    async fn close(&mut self, end: u32) {
        let entries = std::mem::take(&mut self.entries);
        self.segment_at = 0;
        let segments = end.saturating_sub(self.first_segment);
        if entries.is_empty() || self.built_bytes >= WAITING_BYTES_MAX {
            return; // Without keys, or without a filter: who looks for one there reads.
        }
        let (probes, bytes) = build(&entries, segments).await;
        self.built_bytes += bytes.len();
        self.built.push(BuiltFilter {
            part: self.part,
            first_segment: self.first_segment,
            segments,
            probes,
            bytes,
        });
    }
}

/// Probes and bytes of a filter with these entries. Of a million it takes a tenth of a second: commits go on
/// in between.
async fn build(entries: &[(u32, u32)], segments: u32) -> (u32, Vec<u8>) {
    let probes = (u64::from(segments) * u64::from(FALSE_ONE_IN))
        .next_power_of_two()
        .ilog2();
    let probes = probes.min(PROBES_MAX);
    let (pages, page_bytes) = pages_for(entries, segments, probes).await;
    let mut filter = vec![0; pages * page_bytes];
    for step in entries.chunks(STEP_ENTRIES) {
        for (page, entry) in step {
            let page = page_of(*page, pages);
            for bit in bits_of(*entry, probes, page_bytes * 8) {
                if let Some(byte) = filter.get_mut(page * page_bytes + bit / 8) {
                    *byte |= 1 << (bit % 8);
                }
            }
        }
        yield_if_needed().await;
    }
    (probes, filter)
}

/// As many pages, and as long ones, as keep false answers near what they should be: a key that is
/// in every segment brings all its entries to one page.
async fn pages_for(entries: &[(u32, u32)], segments: u32, probes: u32) -> (usize, usize) {
    // 1.4427 = 1 / ln 2: at that many bits an entry and probe half of all bits are set.
    let fair = entries.len() * probes as usize * 14_427 / 10_000 / 8 + 1;
    let mut bytes = fair;
    loop {
        let pages = bytes.div_ceil(PAGE_BYTES);
        let page_bytes = bytes.div_ceil(pages).next_multiple_of(PAGE_UNIT_BYTES);
        let loads = loads_of(entries, pages).await;
        let expected = false_rate(&loads, segments, probes, page_bytes);
        // Uneven pages may take it up to one in 66.
        if expected * f64::from(FALSE_ONE_IN) <= 1.5 || bytes >= 3 * fair {
            return (pages, page_bytes);
        }
        bytes += bytes / 4 + 1;
    }
}

/// How many of the entries go to each of so many pages.
async fn loads_of(entries: &[(u32, u32)], pages: usize) -> Vec<u32> {
    let mut loads = vec![0; pages];
    for step in entries.chunks(STEP_ENTRIES) {
        for (page, _) in step {
            if let Some(load) = loads.get_mut(page_of(*page, pages)) {
                *load += 1;
            }
        }
        yield_if_needed().await;
    }
    loads
}

/// The share of absent keys that pass in some segment, to be expected of pages with so many entries.
#[expect(
    clippy::cast_precision_loss,
    reason = "pages and their bytes are far below 2^52"
)]
fn false_rate(loads: &[u32], segments: u32, probes: u32, page_bytes: usize) -> f64 {
    let bits = page_bytes as f64 * 8.0;
    let of_page = |load: &u32| {
        let set = 1.0 - (-f64::from(*load) * f64::from(probes) / bits).exp();
        let one = set.powf(f64::from(probes));
        1.0 - (1.0 - one).powf(f64::from(segments))
    };
    loads.iter().map(of_page).sum::<f64>() / loads.len() as f64
}

#[cfg(test)]
mod tests;
