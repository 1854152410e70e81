//! What of a lane's tables is known not to verify.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

/// Damaged places that are remembered. Beyond that a table is in ruins, and more names help nobody.
const PLACES_MAX: usize = 1_024;

/// Bytes of a table that do not verify: reads of them are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The table.
    pub file: PathBuf,
    /// Where the block begins that is damaged, or else the footer.
    pub position: u64,
    /// What does not hold.
    pub what: &'static str,
}

/// The damaged places, by table and position: each is told once, until it verifies again.
#[derive(Debug, Default)]
pub(crate) struct KnownDamage {
    places: BTreeMap<(u64, u64), &'static str>,
}

impl KnownDamage {
    /// Notes a damaged place; says whether it is news.
    pub(crate) fn note(&mut self, table: u64, position: u64, what: &'static str) -> bool {
        let known = self.places.contains_key(&(table, position));
        if known || self.places.len() >= PLACES_MAX {
            return false;
        }
        self.places.insert((table, position), what);
        true
    }

    /// Forgets what was noted within bytes that were read and verified; says how many places.
    pub(crate) fn clear(&mut self, table: u64, verified: &Range<u64>) -> usize {
        let before = self.places.len();
        self.places
            .retain(|(id, position), _| *id != table || !verified.contains(position));
        before - self.places.len()
    }

    /// Forgets the places in tables that are gone.
    pub(crate) fn retain_tables(&mut self, is_there: impl Fn(u64) -> bool) {
        self.places.retain(|(table, _), _| is_there(*table));
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The first place in the order of tables and positions.
    pub(crate) fn first(&self) -> Option<(u64, u64, &'static str)> {
        let ((table, position), what) = self.places.first_key_value()?;
        Some((*table, *position, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_news_once_until_it_verifies() {
        // Proves notes, their order, what clears one and what does not, and the bound.
        let mut known = KnownDamage::default();
        assert!(known.note(7, 4096, "late"));
        assert!(known.note(3, 8192, "first"));
        assert!(!known.note(7, 4096, "late"), "known");
        assert_eq!(known.first(), Some((3, 8192, "first")));
        assert_eq!(known.clear(3, &(0..8192)), 0, "it lies behind");
        assert_eq!(known.clear(7, &(8192..16_384)), 0, "it lies before");
        assert_eq!(known.clear(7, &(0..8192)), 1);
        assert!(known.note(7, 4096, "again"));
        known.retain_tables(|table| table == 7);
        assert_eq!(known.first(), Some((7, 4096, "again")));
        for position in 0..10_000 {
            known.note(9, position, "ruins");
        }
        assert_eq!(known.len(), PLACES_MAX);
    }
}
