//! What the broker answers: a file an API family. Only here is the version of a request known.

pub mod admin;
pub mod cluster;
pub mod configs;
pub mod coordinators;
pub mod fetch_session;
pub mod log_dirs;
#[cfg(test)]
mod test_host;
pub mod topic_partitions;
pub mod topics;
