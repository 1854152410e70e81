//! What the cluster knows about itself: topics, where their partitions live, settings, producer ids.
//!
//! A [`Command`] asks for a change, [`apply`] judges it against an [`Image`] and answers with a
//! [`Delta`] or a [`Refusal`], the delta is made durable in the metadata log, and then every core
//! absorbs it into an image of its own. All of that is synchronous and free of clocks and chance:
//! topic ids come in with the command. Start-up replays the log through the same `absorb`.

mod alteration;
mod apply;
pub mod broker_config;
mod command;
pub mod config_value;
mod controller;
mod delta;
mod frame;
mod image;
pub mod log;
mod placement;
mod record;
pub mod routing;
mod snapshot;
pub mod topic_config;
pub mod topic_name;

pub use alteration::{Alteration, ConfigEdit, ConfigOp};
pub use apply::{Limits, apply};
pub use command::{Command, Layout, ManualPartition, Refusal};
pub use controller::{Controller, Decision, Publish, Submit};
pub use delta::{Change, Delta, MetadataIndex};
pub use image::{ConfigMap, ConfigScope, Identity, Image, NodeId, PartitionPlace, Topic};
