//! The client over blocking sockets: for the command line, the load generator and tests.
//!
//! A [`Client`] keeps a connection to each broker that it needed. Every call does its work before
//! it returns: there are no threads. What leads where is asked for when it is needed, and again
//! when a broker says that it moved.

mod admin;
mod configs;
mod consume;
mod disks;
mod link;
mod offsets;
mod produce;
mod producer;
mod transport;

use std::collections::BTreeMap;
use std::time::Duration;

use streambus_proto::ids::BrokerId;
use streambus_proto::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};

pub use crate::produce::Acks;
pub use admin::{ClusterDescription, NewTopic, Outcome};
pub use configs::{ConfigChange, ConfigEntry, ConfigOperation, ConfigResource};
pub use consume::{BlockingConsumer, FetchBounds};
pub use disks::{LogDir, ReplicaOnDisk};
pub use offsets::{ListedOffset, OffsetSpec};
pub use produce::Produced;
pub use producer::BlockingProducer;
pub use transport::TransportError;

use crate::connection::ConnectionConfig;
use crate::error::ClientError;
use crate::partition::TopicPartition;
use crate::reaction::{Reaction, reaction};
use crate::request::{Reply, Request};
use crate::router::{ClusterView, Router, cluster_view};
use link::{Link, LinkConfig};
use transport::Clock;

/// How a client connects, and for how long it tries.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The name that brokers know the client by in logs, metrics and quotas.
    pub client_id: String,
    /// How long connecting to one address may take.
    pub connect_timeout: Duration,
    /// How long a call goes on trying while a broker is away or a leader moves.
    pub patience: Duration,
    /// The bounds of each connection.
    pub connection: ConnectionConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            client_id: "streambus-client".to_owned(),
            connect_timeout: Duration::from_secs(10),
            patience: Duration::from_secs(30),
            connection: ConnectionConfig::default(),
        }
    }
}

/// A connection to a cluster.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    /// Where to begin, and to begin again if no broker that was named since answers.
    bootstrap: Vec<(String, u16)>,
    router: Router,
    links: BTreeMap<BrokerId, Link>,
    /// A connection to a bootstrap address: which broker it is, the protocol does not say.
    first: Option<Link>,
    clock: Clock,
}

/// The pause between two tries of a call.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Client {
    /// Connects to a cluster by the addresses of any of its brokers: `host:port`, several
    /// separated by commas.
    ///
    /// # Errors
    /// [`ClientError::Transport`] if none of them answers.
    pub fn connect(bootstrap: &str, config: ClientConfig) -> Result<Self, ClientError> {
        let mut client = Client {
            bootstrap: addresses(bootstrap)?,
            config,
            router: Router::default(),
            links: BTreeMap::new(),
            first: None,
            clock: Clock::start(),
        };
        client.refresh(Some(&[]))?;
        Ok(client)
    }

    /// What was last heard of the cluster.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Milliseconds since the client began.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Asks what the cluster looks like: `None` for all topics. Topics that do not exist, or may
    /// not be seen, are absent from the answer.
    ///
    /// # Errors
    /// [`ClientError`] if no broker answers.
    pub fn metadata(&mut self, topics: Option<&[&str]>) -> Result<ClusterView, ClientError> {
        self.refresh(topics)
    }

    /// Sends a request of any kind to a broker (`None`: to any) and waits for its answer: for
    /// what has no call of its own here.
    ///
    /// # Errors
    /// [`ClientError`]; nothing is tried twice.
    pub fn call<R: Request>(
        &mut self,
        broker: Option<BrokerId>,
        request: &R,
    ) -> Result<Reply<R>, ClientError> {
        self.on_link(broker, |link| link.call(request))
    }

    /// The versions of `R` are known to both sides: the highest of them.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`] if there is none.
    pub fn version_of<R: Request>(&mut self, broker: Option<BrokerId>) -> Result<i16, ClientError> {
        self.on_link(broker, |link| link.version(R::KEY))
    }

    fn on_link<T>(
        &mut self,
        broker: Option<BrokerId>,
        work: impl FnOnce(&mut Link) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let worked = work(self.link(broker)?);
        if worked.as_ref().is_err_and(ClientError::ends_connection) {
            self.drop_link(broker);
        }
        worked
    }

    /// Forgets a connection that failed. What it led to is asked for again.
    fn drop_link(&mut self, broker: Option<BrokerId>) {
        match broker {
            Some(id) => drop(self.links.remove(&id)),
            None => self.first = None,
        }
        self.router.suspect();
    }

    fn link(&mut self, broker: Option<BrokerId>) -> Result<&mut Link, ClientError> {
        let link = LinkConfig {
            client_id: self.config.client_id.clone(),
            connect_timeout: self.config.connect_timeout,
            connection: self.config.connection,
        };
        let Some(id) = broker else {
            if self.first.is_none() {
                self.first = Some(self.link_to_any(&link)?);
            }
            return Ok(self.first.as_mut().expect("connected above"));
        };
        if !self.links.contains_key(&id) {
            let Some(broker) = self.router.broker(id) else {
                self.router.suspect();
                return Err(ClientError::GaveUp(format!(
                    "broker {id} is not in the cluster"
                )));
            };
            let opened = Link::open(&broker.host, broker.port, &link, self.clock);
            self.links
                .insert(id, opened.inspect_err(|_| self.router.suspect())?);
        }
        Ok(self.links.get_mut(&id).expect("connected above"))
    }

    /// Connects to the first that answers of the bootstrap addresses and the brokers known.
    fn link_to_any(&self, config: &LinkConfig) -> Result<Link, ClientError> {
        let known = self
            .router
            .brokers()
            .map(|broker| (broker.host.clone(), broker.port));
        let mut last = ClientError::GaveUp("no broker's address is known".to_owned());
        for (host, port) in self.bootstrap.iter().cloned().chain(known) {
            match Link::open(&host, port, config, self.clock) {
                Ok(link) => return Ok(link),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks for metadata and remembers it.
    fn refresh(&mut self, topics: Option<&[&str]>) -> Result<ClusterView, ClientError> {
        let wanted = topics.map(|names| {
            let named = |name: &&str| MetadataRequestTopic {
                name: Some((*name).to_owned().into()),
                ..Default::default()
            };
            names.iter().map(named).collect()
        });
        let request = MetadataRequest {
            topics: wanted,
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        self.router.asked(self.clock.now_ms());
        // A broken connection is common after a pause, and another broker may do: twice.
        let reply = match self.call(None, &request) {
            Err(error) if error.ends_connection() => self.call(None, &request)?,
            other => other?,
        };
        let (view, missing) = cluster_view(&reply.read()?);
        for name in &missing {
            self.router.forget(name);
        }
        self.router.learn(view.clone(), self.clock.now_ms());
        Ok(view)
    }

    /// Makes sure that the leaders of these partitions are known, asking if they are not, or if
    /// something seems to have moved.
    fn find_leaders<'p>(
        &mut self,
        partitions: impl Iterator<Item = &'p TopicPartition>,
    ) -> Result<(), ClientError> {
        let mut topics: Vec<&str> = Vec::new();
        let mut unknown = false;
        for partition in partitions {
            unknown |= self.router.leader(partition).is_none();
            if topics.last() != Some(&&*partition.topic) {
                topics.push(&partition.topic);
            }
        }
        topics.sort_unstable();
        topics.dedup();
        if unknown {
            self.router.suspect();
        }
        if !topics.is_empty() && self.router.refresh_due(self.clock.now_ms()) {
            self.refresh(Some(&topics))?;
        }
        Ok(())
    }

    /// Tries until it works, fails for good, or patience ends. Between two tries the metadata is
    /// taken for doubtful.
    fn with_patience<T>(
        &mut self,
        attempt: impl FnMut(&mut Self) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        self.within(self.config.patience, attempt)
    }

    /// As [`Client::with_patience`], with the patience given; at least one try.
    fn within<T>(
        &mut self,
        patience: Duration,
        mut attempt: impl FnMut(&mut Self) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let end_ms = self.clock.now_ms().saturating_add(patience_ms);
        loop {
            let error = match attempt(self) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let hopeless = match &error {
                ClientError::Transport(_) => false,
                ClientError::Refused { refusal, .. } => reaction(refusal.code) == Reaction::GiveUp,
                _ => true,
            };
            if hopeless || self.clock.now_ms() >= end_ms {
                return Err(error);
            }
            self.router.suspect();
            std::thread::sleep(RETRY_PAUSE);
        }
    }
}

fn addresses(bootstrap: &str) -> Result<Vec<(String, u16)>, ClientError> {
    let parse = |address: &str| {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
    };
    let wrong = |address: &str| ClientError::GaveUp(format!("{address} is not host:port"));
    bootstrap
        .split(',')
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .map(|address| parse(address).ok_or_else(|| wrong(address)))
        .collect()
}

#[cfg(test)]
mod tests;
