//! The network between the hosts.

use std::rc::Rc;

use super::host::{HostId, Kill};
use super::world::World;

/// The network.
#[derive(Default)]
pub(crate) struct Network(());

impl Network {
    /// The host's life ended.
    #[expect(clippy::unused_self, reason = "there are no connections yet")]
    pub(crate) fn killed(&self, _world: &Rc<World>, _host: HostId, _how: Kill) {}

    /// The host began another life.
    #[expect(clippy::unused_self, reason = "there are no connections yet")]
    pub(crate) fn started(&self, _world: &Rc<World>, _host: HostId) {}
}
