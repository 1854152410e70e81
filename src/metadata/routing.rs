//! How brokers look to the clients of one listener. The listener knows ports and hosts; the
//! handlers of admin requests only need this much of it.

use std::net::SocketAddr;

use streambus_proto::ids::BrokerId;

use super::image::{NodeId, PartitionPlace};

/// A broker as clients of a listener see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Its id.
    pub id: BrokerId,
    /// The host that clients are told.
    pub host: String,
    /// The port that clients are told.
    pub port: u16,
    /// Where it listens itself.
    pub listens: SocketAddr,
    /// The failure domain, if known.
    pub rack: Option<String>,
}

/// What a broker id stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerPlace {
    /// The node.
    pub node: NodeId,
    /// The lanes of the core that the id names; all lanes of the node where a listener shows nodes.
    pub lanes: Vec<u16>,
}

/// One listener's view of the cluster.
pub trait Routing {
    /// The brokers, by rising id. Never empty.
    fn brokers(&self) -> Vec<BrokerAddress>;

    /// The broker that leads a partition: the id that its clients connect to.
    fn leader_of(&self, place: &PartitionPlace) -> BrokerId;

    /// The brokers that hold a partition, the preferred leader first.
    fn replicas_of(&self, place: &PartitionPlace) -> Vec<BrokerId> {
        vec![self.leader_of(place)]
    }

    /// The broker that this request reached.
    fn this(&self) -> BrokerId;

    /// The broker that clients may send cluster changes to.
    fn controller(&self) -> BrokerId;

    /// What an id stands for, or `None` if no broker has it.
    fn place_of(&self, broker: BrokerId) -> Option<BrokerPlace>;
}
