//! The network between the hosts.

use std::rc::Rc;

use super::host::{HostId, Kill};
use super::world::World;

/// The network.
#[derive(Default)]
pub(crate) struct Network;

impl Network {
    /// The host's life ended.
    pub(crate) fn killed(&self, _world: &Rc<World>, _host: HostId, _how: Kill) {}

    /// The host began another life.
    pub(crate) fn started(&self, _world: &Rc<World>, _host: HostId) {}
}
