//! A core for the tests of admin handlers: it decides commands on the spot.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::Poll;

use streambus_proto::ids::{BrokerId, TopicId};

use super::admin::Host;
use crate::metadata::routing::{BrokerAddress, BrokerPlace, Routing};
use crate::metadata::{
    Command, ConfigMap, Decision, Identity, Image, Layout, Limits, NodeId, PartitionPlace, Submit,
    apply,
};

pub(super) const LIMITS: Limits = Limits {
    topics_max: 5_000,
    partitions_max: 20_000,
    partitions_per_topic_max: 10_000,
    message_bytes_max: 64 << 20,
};

/// A topic's id in tests: its name.
pub(super) fn topic_id(name: &str) -> TopicId {
    let mut id = [b'_'; 16];
    for (place, byte) in id.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    TopicId(id)
}

/// An image of two lanes with these topics and partition counts.
pub(super) fn image(topics: &[(&str, i32)]) -> Image {
    let identity = Identity {
        cluster_id: "test".to_owned(),
        node: NodeId(0),
        lanes: 2,
    };
    let mut image = Image::empty(identity, Arc::new(ConfigMap::new()));
    for (name, partitions) in topics {
        let command = Command::CreateTopic {
            name: (*name).to_owned(),
            id: topic_id(name),
            layout: Layout::Auto {
                partitions: *partitions,
                replication_factor: 1,
            },
            configs: Vec::new(),
        };
        let delta = apply(&image, &command, &LIMITS).expect("a good topic");
        image.absorb(&delta);
    }
    image
}

/// Node 0 with two cores, each a broker that drives one lane.
pub(super) struct TwoCores;

impl Routing for TwoCores {
    fn brokers(&self) -> Vec<BrokerAddress> {
        let broker = |core: u16| BrokerAddress {
            id: BrokerId(i32::from(core)),
            host: "localhost".to_owned(),
            port: 10_092 + core,
            listens: ([0, 0, 0, 0], 10_092 + core).into(),
            rack: None,
        };
        vec![broker(0), broker(1)]
    }

    fn leader_of(&self, place: &PartitionPlace) -> BrokerId {
        BrokerId(i32::from(place.lane % 2))
    }

    fn this(&self) -> BrokerId {
        BrokerId(0)
    }

    fn controller(&self) -> BrokerId {
        BrokerId(0)
    }

    fn place_of(&self, broker: BrokerId) -> Option<BrokerPlace> {
        let core = u16::try_from(broker.0).ok().filter(|core| *core < 2)?;
        Some(BrokerPlace {
            node: NodeId(0),
            lanes: vec![core],
        })
    }
}

/// Runs what never waits, and only yields.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut future = std::pin::pin!(future);
    for _ in 0..1_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("the test host decides on the spot")
}

/// A core whose controller is itself.
pub(super) struct TestHost {
    image: RefCell<Image>,
    submitted: Cell<usize>,
    chance: Cell<u64>,
}

impl TestHost {
    pub(super) fn new(topics: &[(&str, i32)]) -> TestHost {
        TestHost {
            image: RefCell::new(image(topics)),
            submitted: Cell::new(0),
            chance: Cell::new(0),
        }
    }

    /// How many commands came.
    pub(super) fn submitted(&self) -> usize {
        self.submitted.get()
    }
}

impl Submit for TestHost {
    async fn submit(&self, command: Command) -> Decision {
        self.submitted.set(self.submitted.get() + 1);
        let delta = apply(&self.image.borrow(), &command, &LIMITS)?;
        self.image.borrow_mut().absorb(&delta);
        Ok(Arc::new(delta))
    }
}

impl Host for TestHost {
    fn image<T>(&self, look: impl FnOnce(&Image) -> T) -> T {
        look(&self.image.borrow())
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn random(&self) -> u64 {
        self.chance.set(self.chance.get() + 1);
        self.chance.get()
    }

    fn log_level(&self) -> String {
        "info".to_owned()
    }
}
