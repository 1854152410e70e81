//! A client as any other: it finds the leaders, keeps a connection to each broker it needs, sends again what
//! failed, and gives up after a time. It drives the protocol crate's cores over the facade, so it runs in both
//! worlds.
//!
//! Whatever its [`Producer`](producer::ProducerTask) and [`Reader`](reader::Reader) do is written into a history.

mod admin;
mod link;
mod producer;
mod reader;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use streambus_client::connection::{ConnectionConfig, ConnectionError};
use streambus_client::partition::TopicPartition;
use streambus_client::request::{Reply, Request};
use streambus_client::router::{Router, cluster_view};
use streambus_client::versions::Unsupported;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, ProducerEpoch, ProducerId};
use streambus_proto::messages::InitProducerIdRequest;
use streambus_proto::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use streambus_proto::wire::{DecodeError, EncodeError};
use streambus_shards::{now, timeout};

pub use link::Awaited;
pub use producer::{ProducerPlan, ProducerTask};
pub use reader::Reader;

use crate::history::Log;
use link::Link;

/// How a client connects and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct ClientConfig {
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// For an answer.
    pub request_timeout: Duration,
    /// Between two tries of a call.
    pub retry_pause: Duration,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            retry_pause: Duration::from_millis(100),
        }
    }
}

/// Why a call did not work.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection, or it broke: whether the request took effect is not known.
    #[error("connection: {0}")]
    Lost(String),
    /// The broker breaks the protocol.
    #[error("protocol: {0}")]
    Protocol(#[from] ConnectionError),
    /// The answer can't be read.
    #[error("answer: {0}")]
    Decode(#[from] DecodeError),
    /// The request can't be said in the broker's version.
    #[error("request: {0}")]
    Encode(#[from] EncodeError),
    /// The broker does not serve it.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The broker said no.
    #[error("refused: {0:?}")]
    Refused(ErrorCode),
}

impl CallError {
    fn check(code: i16) -> Result<(), CallError> {
        match ErrorCode::from_i16(code) {
            ErrorCode::None => Ok(()),
            code => Err(CallError::Refused(code)),
        }
    }
}

/// One client of a cluster. Shared by the tasks that work for it.
pub struct Client {
    config: ClientConfig,
    bootstrap: Vec<SocketAddr>,
    router: RefCell<Router>,
    links: RefCell<BTreeMap<Option<BrokerId>, Rc<Link>>>,
    /// Which bootstrap address is tried next.
    turn: RefCell<usize>,
}

/// Milliseconds of the monotonic clock, for the cores.
pub(crate) fn clock_ms() -> u64 {
    now().as_nanos() / 1_000_000
}

impl Client {
    /// A client that knows these addresses, and has not connected yet.
    pub fn new(bootstrap: Vec<SocketAddr>, config: ClientConfig) -> Rc<Client> {
        assert!(!bootstrap.is_empty(), "a client needs an address");
        Rc::new(Client {
            config,
            bootstrap,
            router: RefCell::default(),
            links: RefCell::default(),
            turn: RefCell::default(),
        })
    }

    /// Its settings.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// The log that a partition is, by what was last heard.
    pub fn log_of(&self, partition: &TopicPartition) -> Option<Log> {
        let router = self.router.borrow();
        let topic = router.topic(&partition.topic)?;
        Some(Log {
            topic: topic.id,
            partition: partition.index,
        })
    }

    /// Who leads a partition, if it is known.
    pub fn leader(&self, partition: &TopicPartition) -> Option<BrokerId> {
        self.router.borrow().leader(partition)
    }

    /// Sends a request to a broker (`None`: to any) and waits for its answer. A connection that fails is
    /// forgotten, and so is what was believed of the cluster.
    ///
    /// # Errors
    /// [`CallError`]; nothing is tried twice.
    pub async fn call<R: Request>(
        &self,
        broker: Option<BrokerId>,
        request: &R,
    ) -> Result<Reply<R>, CallError> {
        let link = self.link(broker).await?;
        let answered = match link.send(request, &[]) {
            Ok(awaited) => awaited.answer().await.map(Reply::new),
            Err(error) => Err(error),
        };
        if answered.is_err() {
            self.forget(broker, &link);
        }
        answered
    }

    /// The connection to a broker; made if there is none.
    async fn link(&self, broker: Option<BrokerId>) -> Result<Rc<Link>, CallError> {
        let open = self.links.borrow().get(&broker).cloned();
        if let Some(link) = open.filter(|link| !link.is_dead()) {
            return Ok(link);
        }
        let Some(address) = self.address(broker) else {
            self.router.borrow_mut().suspect();
            return Err(CallError::Lost(format!("no address of {broker:?}")));
        };
        let connection = ConnectionConfig {
            request_timeout_ms: u64::try_from(self.config.request_timeout.as_millis())
                .unwrap_or(u64::MAX),
            ..ConnectionConfig::default()
        };
        let opened = timeout(
            self.config.connect_timeout,
            Link::open(address, connection, self.config.request_timeout),
        );
        let link = match opened.await {
            Ok(Ok(link)) => Rc::new(link),
            Ok(Err(error)) => {
                self.router.borrow_mut().suspect();
                return Err(error);
            }
            Err(_) => {
                self.router.borrow_mut().suspect();
                return Err(CallError::Lost(format!(
                    "no connection to {address} in time"
                )));
            }
        };
        // Another task may have been faster: one connection carries all, or order would be lost.
        let mut links = self.links.borrow_mut();
        let kept = links.entry(broker).or_insert_with(|| Rc::clone(&link));
        if kept.is_dead() {
            *kept = link;
        }
        Ok(Rc::clone(kept))
    }

    fn address(&self, broker: Option<BrokerId>) -> Option<SocketAddr> {
        let router = self.router.borrow();
        let Some(id) = broker else {
            let mut turn = self.turn.borrow_mut();
            *turn = turn.wrapping_add(1);
            return self.bootstrap.get(*turn % self.bootstrap.len()).copied();
        };
        let broker = router.broker(id)?;
        let ip: IpAddr = broker.host.parse().ok()?;
        Some(SocketAddr::new(ip, broker.port))
    }

    /// Forgets a connection that failed, unless another has taken its place.
    fn forget(&self, broker: Option<BrokerId>, failed: &Rc<Link>) {
        failed.close();
        let mut links = self.links.borrow_mut();
        let same = links
            .get(&broker)
            .is_some_and(|link| Rc::ptr_eq(link, failed));
        let removed = if same { links.remove(&broker) } else { None };
        drop(links);
        drop(removed);
        self.router.borrow_mut().suspect();
    }

    /// Asks what the cluster looks like: these topics.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn refresh(&self, topics: &[&str]) -> Result<(), CallError> {
        let named = |name: &&str| MetadataRequestTopic {
            name: Some((*name).to_owned().into()),
            ..Default::default()
        };
        let request = MetadataRequest {
            topics: Some(topics.iter().map(named).collect()),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        self.router.borrow_mut().asked(clock_ms());
        let reply = self.call(None, &request).await?;
        let (view, missing) = cluster_view(&reply.read()?);
        let mut router = self.router.borrow_mut();
        for name in &missing {
            router.forget(name);
        }
        router.learn(view, clock_ms());
        Ok(())
    }

    /// Makes sure that the leaders of these partitions are known, asking if they are not or if something
    /// seems to have moved; not more often than the router allows.
    pub async fn find_leaders(&self, partitions: &[TopicPartition]) {
        let due = {
            let mut router = self.router.borrow_mut();
            if partitions.iter().any(|name| router.leader(name).is_none()) {
                router.suspect();
            }
            router.refresh_due(clock_ms())
        };
        if due && !partitions.is_empty() {
            let mut topics: Vec<&str> = partitions.iter().map(|name| &*name.topic).collect();
            topics.sort_unstable();
            topics.dedup();
            // A cluster that is away is asked again later.
            let _ = self.refresh(&topics).await;
        }
    }

    /// Takes in a refusal that says a partition has moved.
    fn suspect(&self) {
        self.router.borrow_mut().suspect();
    }

    /// A new identity for an idempotent producer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn init_producer_id(&self) -> Result<(ProducerId, ProducerEpoch), CallError> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            ..Default::default()
        };
        let reply = self.call(None, &request).await?;
        let answer = reply.read()?;
        CallError::check(answer.error_code)?;
        let epoch = ProducerEpoch(answer.producer_epoch);
        Ok((ProducerId(answer.producer_id), epoch))
    }
}
