//! Every metric there is: name, kind and meaning in one table. `README.md` repeats it for people,
//! and a test holds the two together.

use crate::histogram::Scale;

/// What a metric is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram(Scale),
}

/// One metric, of which each core or code has a series.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
}

macro_rules! families {
    ($($id:ident = $name:literal, $kind:expr, $help:literal;)+) => {
        $(pub(crate) const $id: Family = Family { name: $name, kind: $kind, help: $help };)+
        /// All of them, in the order of the table in `README.md`.
        pub(crate) const ALL: &[Family] = &[$($id),+];
    };
}

const LATENCY: Kind = Kind::Histogram(Scale::Nanoseconds);
const SIZE: Kind = Kind::Histogram(Scale::Bytes);

families! {
    PRODUCE_STAGE = "streambus_produce_stage_seconds", LATENCY,
        "Time a produce request spends in a stage: parse, queue, sync, respond, total.";
    PRODUCE_BYTES = "streambus_produce_bytes_total", Kind::Counter,
        "Bytes of record batches appended.";
    PRODUCE_RECORDS = "streambus_produce_records_total", Kind::Counter,
        "Records appended.";
    PRODUCE_BATCHES = "streambus_produce_batches_total", Kind::Counter,
        "Record batches appended.";
    FETCH_STAGE = "streambus_fetch_stage_seconds", LATENCY,
        "Time a fetch request spends in a stage: parse, wait, read, respond, total.";
    FETCH_BYTES = "streambus_fetch_bytes_total", Kind::Counter,
        "Bytes of record batches sent to consumers.";
    TOPIC_BYTES_IN = "streambus_topic_bytes_in_total", Kind::Counter,
        "Bytes of record batches appended, by topic; topics beyond metrics.topics_max are (other) together.";
    TOPIC_RECORDS_IN = "streambus_topic_records_in_total", Kind::Counter,
        "Records appended, by topic; topics beyond metrics.topics_max are (other) together.";
    TOPIC_BYTES_OUT = "streambus_topic_bytes_out_total", Kind::Counter,
        "Bytes of record batches sent to consumers, by topic; topics beyond metrics.topics_max are (other) together.";
    TOPIC_RECORDS_OUT = "streambus_topic_records_out_total", Kind::Counter,
        "Offsets that batches sent to consumers cover, by topic; topics beyond metrics.topics_max are (other) together.";
    TOPIC_LOG_BYTES = "streambus_topic_log_bytes", Kind::Gauge,
        "Bytes of batches that a topic's logs hold, every ten seconds; topics beyond metrics.topics_max are (other) together.";
    REQUESTS = "streambus_requests_total", Kind::Counter,
        "Requests by API.";
    ERRORS = "streambus_errors_total", Kind::Counter,
        "Kafka error codes in answers, of requests, topics, partitions and resources, by code.";
    CONNECTIONS_OPEN = "streambus_connections_open", Kind::Gauge,
        "Client connections open now.";
    CONNECTIONS_ACCEPTED = "streambus_connections_accepted_total", Kind::Counter,
        "Client connections accepted.";
    CONNECTIONS_REFUSED = "streambus_connections_refused_total", Kind::Counter,
        "Client connections refused or closed by a limit, by reason.";
    MESH_HOPS = "streambus_mesh_hops_total", Kind::Counter,
        "Requests to other cores: for partitions that they own, and about metadata.";
    MESH_FULL = "streambus_mesh_full_total", Kind::Counter,
        "Times a hop had to wait because the other core's queue was full.";
    WAL_SYNC = "streambus_wal_sync_seconds", LATENCY,
        "Time of one write-ahead log commit, from the write to the end of its sync.";
    WAL_COMMIT = "streambus_wal_commit_bytes", SIZE,
        "Size of one write-ahead log commit.";
    WAL_REPLAYED = "streambus_wal_replayed_bytes", Kind::Gauge,
        "Bytes of write-ahead log replayed at start.";
    WAL_CUT = "streambus_wal_cut_bytes", Kind::Gauge,
        "Bytes of a torn tail cut from the write-ahead log at start.";
    MEMTABLE_BYTES = "streambus_memtable_bytes", Kind::Gauge,
        "Bytes of batches in memory that wait for their table.";
    DISK_BYTES = "streambus_disk_bytes", Kind::Gauge,
        "Bytes of tables and write-ahead log on disk.";
    TABLES = "streambus_tables", Kind::Gauge,
        "Sorted tables on disk.";
    MERGES = "streambus_merges_total", Kind::Counter,
        "Merges of tables carried out.";
    SCRUBBED_BYTES = "streambus_scrubbed_bytes_total", Kind::Counter,
        "Bytes of tables verified in the background.";
    SCRUB_PASSES = "streambus_scrub_passes_total", Kind::Counter,
        "Passes of that over all tables of a lane.";
    DAMAGE_FOUND = "streambus_damage_found_total", Kind::Counter,
        "Damaged places found in tables, by a pass or by a read.";
    DAMAGED_PLACES = "streambus_damaged_places", Kind::Gauge,
        "Damaged places in tables that are known now: reads of them are refused.";
    CLEANINGS = "streambus_cleanings_total", Kind::Counter,
        "Compactions of partitions by key carried out.";
    CLEANED_AWAY_BYTES = "streambus_cleaned_away_bytes_total", Kind::Counter,
        "Bytes of batches that key compaction left out.";
    STORAGE_APPENDED_BYTES = "streambus_storage_appended_bytes_total", Kind::Counter,
        "Bytes of batches that the lanes took.";
    STORAGE_WRITTEN_BYTES = "streambus_storage_written_bytes_total", Kind::Counter,
        "Bytes written to disk for them, by stage: wal, flush, merge, rewrite, clean, manifest.";
    CACHE_HITS = "streambus_cache_hits_total", Kind::Counter,
        "Cold reads served from the block cache.";
    CACHE_MISSES = "streambus_cache_misses_total", Kind::Counter,
        "Cold reads that had to read the disk.";
    MEMTABLES_KEPT_BYTES = "streambus_memtables_kept_bytes", Kind::Gauge,
        "Bytes of memory that flushed in-memory tables hold, for consumers that are a little behind.";
    CACHE_BYTES = "streambus_cache_bytes", Kind::Gauge,
        "Bytes of table data in the block cache.";
    DISK_FREE_BYTES = "streambus_disk_free_bytes", Kind::Gauge,
        "Bytes free on the data directory's file system.";
    LOW_SPACE = "streambus_low_space", Kind::Gauge,
        "1 while produce is refused because less than storage.min_free_bytes is free, else 0.";
    CORE_STALLS = "streambus_core_stalls_total", Kind::Counter,
        "Times a core gave no sign of life for longer than the stall limit.";
    LOG_LINES_DROPPED = "streambus_log_lines_dropped_total", Kind::Counter,
        "Log lines dropped because standard error was read too slowly.";
    READY = "streambus_ready", Kind::Gauge,
        "1 while the node serves clients, else 0.";
    BUILD = "streambus_build_info", Kind::Gauge,
        "Always 1; its label is the version.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_metric() {
        // Proves: nobody adds or removes a metric without telling the people who read the table.
        let readme = include_str!("../README.md");
        let rows = readme.lines().filter_map(|line| {
            let name = line.strip_prefix("| `streambus_")?.split('`').next()?;
            Some(format!("streambus_{name}"))
        });
        let rows: Vec<String> = rows.collect();
        let names: Vec<&str> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(rows, names);
    }

    #[test]
    fn names_end_in_their_unit() {
        // Proves: Prometheus's naming rule holds, so a reader knows the unit from the name.
        for family in ALL {
            let good = match family.kind {
                Kind::Counter => family.name.ends_with("_total"),
                Kind::Gauge => !family.name.ends_with("_total"),
                Kind::Histogram(Scale::Nanoseconds) => family.name.ends_with("_seconds"),
                Kind::Histogram(Scale::Bytes) => family.name.ends_with("_bytes"),
            };
            assert!(good, "{}", family.name);
        }
    }
}
