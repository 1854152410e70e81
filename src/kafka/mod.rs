//! The protocol: a file for each family of APIs, and the connections that carry them. The only room
//! that sees request versions; `served` lists them.

mod accept;
mod admin;
mod broker;
mod cluster;
mod configs;
mod connection;
mod connection_limits;
mod coordinators;
mod dispatch;
mod features;
mod fetch;
mod fetch_session;
mod fetch_wait;
mod in_flight;
mod listener;
mod log_dirs;
mod metadata;
mod offsets;
mod produce;
mod quorum;
mod replicas;
mod request_memory;
mod response;
mod security;
mod served;
#[cfg(test)]
mod test_host;
mod topic_partitions;
mod topics;

pub use accept::accept;
pub use broker::Broker;
pub use connection_limits::ConnectionLimits;
pub use listener::{CorePort, ListenerPlan};
