//! Which offsets a partition still has to keep: pure rules over what it holds.

use streambus_proto::ids::Offset;

/// A part of a log that goes as one: a table's range, or a batch in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    /// Largest timestamp in it, ms, or when it was written if it has none; negative when neither is known.
    pub(crate) max_timestamp: i64,
}

/// What `retention.ms` and `retention.bytes` ask for; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) retention_ms: Option<u64>,
    pub(crate) retention_bytes: Option<u64>,
}

/// The log start after retention: `log_start`, or the end of the last part that may go.
///
/// Parts go from the oldest on, as in Kafka: the first one that must stay keeps all after it. By
/// size, a part goes only if what is left still reaches the limit, so that `retention.bytes` is a
/// promise of how much is kept at least. A part of unknown age stays.
pub(crate) fn log_start_after(
    log_start: Offset,
    parts: impl Iterator<Item = Held> + Clone,
    limits: Limits,
    now_ms: i64,
) -> Offset {
    // Only with a limit: the sum is over all parts, and a log that keeps all it has looks at one.
    let mut size = limits.retention_bytes.map(|limit| {
        let all: u64 = parts.clone().map(|part| part.bytes).sum();
        (all, limit)
    });
    let mut start = log_start;
    for part in parts {
        let too_old = limits.retention_ms.is_some_and(|limit| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            part.max_timestamp >= 0 && now_ms.saturating_sub(part.max_timestamp) > limit
        });
        let too_much = size.is_some_and(|(left, limit)| left - part.bytes >= limit);
        if !too_old && !too_much {
            break;
        }
        if let Some((left, _)) = &mut size {
            *left -= part.bytes;
        }
        start = start.max(part.end);
    }
    assert!(start >= log_start, "retention moved the log start back");
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Held> {
        let part = |end, bytes, max_timestamp| Held {
            end: Offset(end),
            bytes,
            max_timestamp,
        };
        vec![
            part(10, 100, 1_000),
            part(20, 100, 3_000),
            part(30, 100, 2_000),
            part(40, 100, -1),
        ]
    }

    #[test]
    fn old_parts_go_oldest_first() {
        // Proves the time rule: the first part that is young enough keeps all after it.
        let cases = [
            (None, 0),
            (Some(0), 30),
            (Some(2_000), 10),
            (Some(1_999), 10),
        ];
        for (retention_ms, start) in cases {
            let limits = Limits {
                retention_ms,
                retention_bytes: None,
            };
            let got = log_start_after(Offset(0), parts().into_iter(), limits, 4_500);
            assert_eq!(got, Offset(start), "retention.ms {retention_ms:?}");
        }
    }

    #[test]
    fn retention_bytes_are_kept_at_least() {
        // Proves the size rule: what is left never falls below the limit.
        let cases = [
            (400, 0),
            (301, 0),
            (300, 10),
            (250, 10),
            (100, 30),
            (1, 30),
            (0, 40),
        ];
        for (limit, start) in cases {
            let limits = Limits {
                retention_ms: None,
                retention_bytes: Some(limit),
            };
            let got = log_start_after(Offset(0), parts().into_iter(), limits, 0);
            assert_eq!(got, Offset(start), "retention.bytes {limit}");
        }
    }

    #[test]
    fn without_a_limit_on_the_size_nothing_behind_the_first_that_stays_is_looked_at() {
        // Proves that a look at a log that keeps all it has costs the same however long that is.
        let looks = std::cell::Cell::new(0);
        let counted = parts().into_iter().inspect(|_| looks.set(looks.get() + 1));
        let limits = Limits {
            retention_ms: Some(10_000),
            retention_bytes: None,
        };
        assert_eq!(
            log_start_after(Offset(0), counted, limits, 4_500),
            Offset(0)
        );
        assert_eq!(looks.get(), 1);
    }

    #[test]
    fn the_log_start_never_goes_back() {
        // Proves that a log start beyond the parts stays, and that clocks that jump back drop nothing.
        let limits = Limits {
            retention_ms: Some(1),
            retention_bytes: Some(0),
        };
        let got = log_start_after(Offset(99), parts().into_iter(), limits, 10_000);
        assert_eq!(got, Offset(99));
        let limits = Limits {
            retention_ms: Some(1),
            retention_bytes: None,
        };
        let got = log_start_after(Offset(0), parts().into_iter(), limits, i64::MIN);
        assert_eq!(got, Offset(0));
    }
}
