//! A listener: the ports it has, and how the brokers look to its clients.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use streambus_proto::ids::BrokerId;

use crate::config::Advertise;
use crate::metadata::routing::{BrokerAddress, BrokerPlace, Routing};
use crate::metadata::{NodeId, PartitionPlace};

/// Broker ids of a node's cores start at its number times this.
const CORES_PER_NODE_MAX: i32 = 1_000;

/// One listener of the node, the same on every core.
#[derive(Debug, Clone)]
pub struct ListenerPlan {
    /// Its name in the settings.
    pub name: String,
    /// What it shows as brokers.
    pub advertise: Advertise,
    /// The host that clients are told; `None` for the address they connected to.
    pub advertised_host: Option<String>,
    /// The address that all cores listen on.
    pub listens: SocketAddr,
    /// The port of the node that clients are told.
    pub node_port: u16,
    /// The ports of the cores, in core mode.
    pub core_ports: Vec<CorePort>,
    /// The node.
    pub node: NodeId,
    /// How many cores it has.
    pub cores: u16,
    /// How many lanes it has.
    pub lanes: u16,
    /// Its failure domain.
    pub rack: Option<String>,
}

/// The port of one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorePort {
    /// The one that it listens on.
    pub listens: u16,
    /// The one that clients are told.
    pub advertised: u16,
}

/// A listener as one connection sees it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    plan: Rc<ListenerPlan>,
    host: Rc<str>,
    core: u16,
}

impl View {
    /// The view of a connection that came in at `local` and landed on `core`.
    pub(crate) fn new(plan: &Rc<ListenerPlan>, local: IpAddr, core: u16) -> View {
        let host = plan
            .advertised_host
            .clone()
            .unwrap_or_else(|| local.to_canonical().to_string());
        View {
            plan: Rc::clone(plan),
            host: host.into(),
            core,
        }
    }

    fn id_of_core(&self, core: u16) -> BrokerId {
        let node = i32::from(self.plan.node.0);
        match self.plan.advertise {
            Advertise::Core => BrokerId(node * CORES_PER_NODE_MAX + i32::from(core)),
            Advertise::Node => BrokerId(node),
        }
    }

    fn address(&self, id: BrokerId, port: CorePort) -> BrokerAddress {
        BrokerAddress {
            id,
            host: self.host.to_string(),
            port: port.advertised,
            listens: SocketAddr::new(self.plan.listens.ip(), port.listens),
            rack: self.plan.rack.clone(),
        }
    }

    /// The listener's name in the settings.
    pub(crate) fn listener(&self) -> &str {
        &self.plan.name
    }

    /// The core that this connection is on, if the listener shows cores.
    pub(crate) fn shown_core(&self) -> Option<u16> {
        (self.plan.advertise == Advertise::Core).then_some(self.core)
    }
}

impl Routing for View {
    fn brokers(&self) -> Vec<BrokerAddress> {
        match self.plan.advertise {
            Advertise::Core => (0_u16..)
                .zip(&self.plan.core_ports)
                .map(|(core, port)| self.address(self.id_of_core(core), *port))
                .collect(),
            Advertise::Node => {
                let port = CorePort {
                    listens: self.plan.listens.port(),
                    advertised: self.plan.node_port,
                };
                vec![self.address(self.id_of_core(0), port)]
            }
        }
    }

    fn leader_of(&self, place: &PartitionPlace) -> BrokerId {
        self.id_of_core(place.lane % self.plan.cores)
    }

    fn this(&self) -> BrokerId {
        self.id_of_core(self.core)
    }

    fn controller(&self) -> BrokerId {
        self.id_of_core(0)
    }

    fn place_of(&self, broker: BrokerId) -> Option<BrokerPlace> {
        let core = (0..self.plan.cores).find(|core| self.id_of_core(*core) == broker)?;
        let all = 0..self.plan.lanes;
        let lanes = match self.plan.advertise {
            Advertise::Core => all.filter(|lane| lane % self.plan.cores == core).collect(),
            Advertise::Node => all.collect(),
        };
        Some(BrokerPlace {
            node: self.plan.node,
            lanes,
        })
    }
}

#[cfg(test)]
mod tests {
    use streambus_proto::ids::LeaderEpoch;

    use super::*;

    fn view(advertise: Advertise) -> View {
        let plan = Rc::new(ListenerPlan {
            name: "main".to_owned(),
            advertise,
            advertised_host: None,
            node_port: 9_092,
            listens: ([0, 0, 0, 0], 9_092).into(),
            core_ports: [10_092, 10_093]
                .map(|port| CorePort {
                    listens: port,
                    advertised: port + 5,
                })
                .to_vec(),
            node: NodeId(3),
            cores: 2,
            lanes: 4,
            rack: None,
        });
        View::new(&plan, IpAddr::from([10, 0, 0, 9]), 1)
    }

    #[test]
    fn core_listener_shows_cores_and_node_listener_the_node() {
        // Proves ids, ports and leaders of both modes, and the host a client is told.
        let place = PartitionPlace {
            lane: 3,
            leader: NodeId(3),
            replicas: vec![NodeId(3)],
            leader_epoch: LeaderEpoch(0),
        };
        let cores = view(Advertise::Core);
        let ids: Vec<(i32, u16)> = cores.brokers().iter().map(|b| (b.id.0, b.port)).collect();
        assert_eq!(ids, [(3_000, 10_097), (3_001, 10_098)]);
        assert_eq!(cores.brokers()[1].listens, ([0, 0, 0, 0], 10_093).into());
        assert_eq!(
            (cores.leader_of(&place), cores.this()),
            (BrokerId(3_001), BrokerId(3_001))
        );
        assert_eq!(
            cores.place_of(BrokerId(3_001)).map(|place| place.lanes),
            Some(vec![1, 3])
        );
        let node = view(Advertise::Node);
        assert_eq!(node.brokers().len(), 1);
        assert_eq!((node.brokers()[0].id.0, node.brokers()[0].port), (3, 9_092));
        assert_eq!(node.brokers()[0].host, "10.0.0.9");
        assert_eq!(node.leader_of(&place), BrokerId(3));
        assert_eq!(
            node.place_of(BrokerId(3)).map(|place| place.lanes.len()),
            Some(4)
        );
        assert_eq!(node.place_of(BrokerId(4)), None);
    }
}
