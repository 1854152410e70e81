//! The bounds of everything a client can make the broker hold.

use super::section::section;

section! {
    /// What clients may take. Full means a typed refusal or a wait, never growth.
    pub struct LimitsConfig {
        /// Connections in all, all listeners together.
        connections_max: usize = 10_000, in 1..=1_000_000;
        /// Connections from one address.
        connections_per_ip_max: usize = 5_000, in 1..=1_000_000;
        /// The largest request. A larger one closes its connection.
        request_bytes_max: usize = 100 << 20, in 1 << 20..=1 << 30;
        /// Memory that one request and its answer may take beside the request's own bytes. Each entry of its
        /// arrays (a topic, a partition, a resource) counts 128 to 1,536 bytes, by API, and its text three
        /// times: 65,000 topics, or 250,000 partitions of `ListOffsets`. More closes the connection.
        request_memory_bytes_max: usize = 48 << 20, in 1 << 20..=4 << 30;
        /// Bytes of requests and answers that one connection may have under way before it is not read.
        in_flight_bytes_per_connection_max: usize = 128 << 20, in 1 << 20..=4 << 30;
        /// Requests that one connection may have under way before it is not read.
        in_flight_requests_per_connection_max: usize = 1_000, in 1..=100_000;
        /// Bytes of requests that all connections of one core may have under way. Above it, a connection that
        /// owes answers is not read, and no request grows beyond 64 KiB but one at a time.
        in_flight_bytes_per_core_max: usize = 512 << 20, in 16 << 20..=64 << 30;
        /// A connection without a request for this long is closed.
        idle_timeout_ms: u64 = 600_000, in 1_000..=86_400_000;
        /// A client that has begun a request must send the rest, or 4 MiB more of it, within this time.
        request_read_timeout_ms: u64 = 30_000, in 100..=3_600_000;
        /// A client that takes neither the rest of an answer nor 1 MiB more of it within this time is cut.
        write_timeout_ms: u64 = 30_000, in 100..=3_600_000;
        /// The most record bytes one fetch answer carries, whatever the client asks for.
        fetch_response_bytes_max: usize = 55 << 20, in 1 << 20..=1 << 30;
        /// Record bytes that all fetch answers of one core may hold at a time.
        fetch_bytes_per_core_max: usize = 256 << 20, in 8 << 20..=64 << 30;
        /// Fetches of one core that may wait for data at a time, at ten partitions each; a further one is
        /// answered at once.
        parked_fetches_max: usize = 50_000, in 1..=1_000_000;
        /// The longest a fetch waits for data, whatever the client asks for.
        fetch_wait_max_ms: u64 = 300_000, in 100..=3_600_000;
        /// Incremental fetch sessions of one core; the oldest gives way to a new one.
        fetch_sessions_max: usize = 1_000, in 1..=100_000;
        /// Partitions that one fetch session remembers.
        fetch_session_partitions_max: usize = 20_000, in 1..=1_000_000;
        /// Topics of the cluster.
        topics_max: usize = 50_000, in 1..=1_000_000;
        /// Partitions of the cluster.
        partitions_max: usize = 200_000, in 1..=4_000_000;
        /// Partitions of one topic.
        partitions_per_topic_max: usize = 10_000, in 1..=1_000_000;
    }
}
