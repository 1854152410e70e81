//! A run of batches, one after the other, as produce requests carry and the log serves them.

use super::batch::BatchView;
use super::error::RecordsError;

/// Iterates over the batches of a run. After an error it ends: what follows a batch whose
/// length is not to be trusted cannot be found.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    /// Starts at the first batch of `records`.
    pub fn new(records: &'a [u8]) -> Self {
        Batches { rest: records }
    }

    /// The bytes not yet walked over.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match BatchView::split_first(self.rest) {
            Ok((batch, rest)) => {
                self.rest = rest;
                Some(Ok(batch))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

impl std::iter::FusedIterator for Batches<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchBuilder, Codec, NewRecord};

    fn batch(records: u8) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None);
        for value in 0..records {
            builder.push(&NewRecord {
                timestamp: 1,
                value: Some(&[value]),
                ..NewRecord::default()
            });
        }
        builder.build()
    }

    #[test]
    fn walks_each_batch_once() {
        // Every batch of a run comes out once, in order, and the run ends clean.
        let run = [batch(1), batch(3), batch(2)].concat();
        let counts: Vec<i32> = Batches::new(&run)
            .map(|batch| batch.unwrap().record_count())
            .collect();
        assert_eq!(counts, [1, 3, 2]);
        assert!(Batches::new(&[]).next().is_none());
    }

    #[test]
    fn garbage_after_a_batch_is_an_error_and_the_end() {
        // Trailing bytes are never ignored, and never walked into twice.
        let mut run = batch(1);
        run.extend_from_slice(&[0xff; 7]);
        let mut batches = Batches::new(&run);
        assert!(batches.next().unwrap().is_ok());
        let cut = RecordsError::Truncated {
            needed: 61,
            available: 7,
        };
        assert_eq!(batches.next(), Some(Err(cut)));
        assert_eq!(batches.next(), None);
    }
}
