//! The disks of the hosts.

use std::rc::Rc;

use super::host::{HostId, Kill};
use super::world::World;

/// The disks of all hosts.
#[derive(Default)]
pub(crate) struct Disks(());

impl Disks {
    /// The host's life ended: operations under way end with it.
    #[expect(clippy::unused_self, reason = "there are no operations yet")]
    pub(crate) fn killed(&self, _world: &Rc<World>, _host: HostId, _how: Kill) {}
}
