//! Free space: produce is refused before the disk is full, so that what gives space back (retention,
//! deletion, flushing what was acknowledged) still has some to work with.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use streambus_ops::LowSpace;
use streambus_proto::error_code::ErrorCode;
use streambus_shards::{Instant, disk, now};

use super::op::AppendRefusal;
use super::{Shard, gauge};

/// How old a look at the file system may be when a batch is to be appended. A fast disk takes 250 MB in this time, half of
/// the default `storage.min_free_bytes`; asking takes about a microsecond.
const LOOK_AGE_MAX: Duration = Duration::from_millis(100);
/// Produce is taken again when this share of the limit is free above it. Without a gap, each batch of a
/// disk at the limit would turn refusal on and off.
const RESUME_ABOVE_PART: u64 = 8;

/// What a look at the free space changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Produce is refused from now on.
    Low,
    /// Produce is taken again.
    Recovered,
}

/// Whether there is space to produce: low and high watermark of what is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Watermark {
    min_free_bytes: u64,
    free_bytes: u64,
    is_low: bool,
}

impl Watermark {
    /// Takes everything until the first look.
    fn new(min_free_bytes: u64) -> Watermark {
        Watermark {
            min_free_bytes,
            free_bytes: u64::MAX,
            is_low: false,
        }
    }

    /// What was seen at a look; says whether anything changes.
    fn look(&mut self, free_bytes: u64) -> Option<Turn> {
        self.free_bytes = free_bytes;
        if !self.is_low && free_bytes < self.min_free_bytes {
            self.is_low = true;
            return Some(Turn::Low);
        }
        if self.is_low && free_bytes >= self.resume_bytes() {
            self.is_low = false;
            return Some(Turn::Recovered);
        }
        None
    }

    /// What must be free before produce is taken again.
    fn resume_bytes(&self) -> u64 {
        self.min_free_bytes
            .saturating_add(self.min_free_bytes / RESUME_ABOVE_PART)
    }

    fn low(&self, directory: &str) -> Option<LowSpace> {
        self.is_low.then(|| LowSpace {
            directory: directory.to_owned(),
            free_bytes: self.free_bytes,
            min_free_bytes: self.min_free_bytes,
            resume_bytes: self.resume_bytes(),
        })
    }

    /// The answer to a batch, if it is refused.
    fn refusal(&self) -> Option<AppendRefusal> {
        self.is_low.then(|| {
            let message = format!(
                "the disk has {} bytes free, and storage.min_free_bytes={} must stay free; produce is taken again at {}: delete topics, shorten retention, or make room",
                self.free_bytes,
                self.min_free_bytes,
                self.resume_bytes()
            );
            AppendRefusal::new(ErrorCode::KafkaStorageError, message)
        })
    }
}

/// Where the free space is looked at, and what was seen.
#[derive(Debug)]
pub struct Space {
    directory: PathBuf,
    watermark: Cell<Watermark>,
    looked: Cell<Instant>,
}

impl Space {
    /// Takes everything until the first look.
    pub fn new(directory: PathBuf, min_free_bytes: u64) -> Space {
        Space {
            directory,
            watermark: Cell::new(Watermark::new(min_free_bytes)),
            looked: Cell::new(now()),
        }
    }

    /// What operators are told while produce is refused.
    pub(super) fn low(&self) -> Option<LowSpace> {
        let directory = self.directory.display().to_string();
        self.watermark.get().low(&directory)
    }
}

impl Shard {
    /// The answer to a batch that is to be appended, if there is no space for it. Looks again if the last look is too old, so
    /// that an idle core need not look.
    pub(super) fn space_refusal(&self) -> Option<AppendRefusal> {
        if self.space.looked.get().elapsed() >= LOOK_AGE_MAX {
            self.look_at_space();
        }
        self.space.watermark.get().refusal()
    }

    /// Looks how much is free, and has produce refused while that is less than must be.
    pub fn look_at_space(&self) {
        self.space.looked.set(now());
        // A file system that can't be asked fails its writes too, and those are handled.
        let Ok(free_bytes) = disk::free_bytes(&self.space.directory) else {
            return;
        };
        let mut space = self.space.watermark.get();
        let turn = space.look(free_bytes);
        self.space.watermark.set(space);
        let figures = &self.metrics.storage;
        figures.disk_free_bytes.set(gauge(free_bytes));
        figures.low_space.set(f64::from(u8::from(space.is_low)));
        let (core, min_free_bytes) = (self.core().0, space.min_free_bytes);
        match turn {
            Some(Turn::Low) => tracing::error!(
                core,
                free_bytes,
                min_free_bytes,
                "the disk is almost full: produce is refused until there is space"
            ),
            Some(Turn::Recovered) => tracing::info!(
                core,
                free_bytes,
                min_free_bytes,
                "there is space again: produce is taken"
            ),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn produce_stops_below_the_limit_and_resumes_above_it() {
        // Proves both edges, the gap between them, and that each turn is told once.
        let mut space = Watermark::new(800);
        assert_eq!(space.refusal(), None, "before the first look");
        let looks = [
            (801, None, false),
            (800, None, false),
            (799, Some(Turn::Low), true),
            (0, None, true),
            (800, None, true),
            (899, None, true),
            (900, Some(Turn::Recovered), false),
            (800, None, false),
            (10, Some(Turn::Low), true),
            (u64::MAX, Some(Turn::Recovered), false),
        ];
        for (step, (free_bytes, turn, refused)) in looks.into_iter().enumerate() {
            assert_eq!(space.look(free_bytes), turn, "step {step}");
            assert_eq!(space.refusal().is_some(), refused, "step {step}");
        }
    }

    #[test]
    fn a_refusal_is_retriable_and_says_what_to_do() {
        // Proves the code and that both numbers and the setting are named.
        let mut space = Watermark::new(800);
        space.look(7);
        let refusal = space.refusal().expect("7 < 800");
        assert_eq!(refusal.code, ErrorCode::KafkaStorageError);
        assert!(refusal.code.is_retriable());
        for part in ["7 bytes", "storage.min_free_bytes=800", "900"] {
            assert!(refusal.message.contains(part), "{}", refusal.message);
        }
    }

    #[test]
    fn the_largest_limit_has_no_overflow() {
        // Proves that a limit beyond all disks refuses, and does not wrap.
        let mut space = Watermark::new(u64::MAX);
        assert_eq!(space.look(u64::MAX - 1), Some(Turn::Low));
        assert_eq!(space.look(u64::MAX), Some(Turn::Recovered));
    }
}
