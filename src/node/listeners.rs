//! The node's listeners: addresses taken before anything is written, accepted on when all is recovered.

use std::net::SocketAddr;
use std::rc::Rc;

use streambus_shards::{BoundAddress, Task, check_free, spawn};

use super::NodeError;
use super::prepare::Start;
use crate::config::{Advertise, Config, ListenerConfig};
use crate::kafka::{Broker, CorePort, ListenerPlan, accept};

/// One listener with its addresses taken, for all cores.
pub struct TakenListener {
    pub(super) config: ListenerConfig,
    pub(super) name: String,
    /// One socket a core, all at the same address.
    shared: Vec<BoundAddress>,
    /// One socket a core, each at its own port; none in node mode.
    own: Vec<BoundAddress>,
    pub(super) address: SocketAddr,
    pub(super) core_ports: Vec<u16>,
}

/// Takes the addresses of every listener of the settings, for a node of so many cores.
///
/// # Errors
/// [`NodeError::Address`], above all for a port that another process has.
pub fn take_listeners(config: &Config, cores: usize) -> Result<Vec<TakenListener>, NodeError> {
    config
        .listeners
        .iter()
        .map(|(name, listener)| take_addresses(name, listener, cores))
        .collect()
}

/// Takes the addresses of a listener, or says why it can't.
fn take_addresses(
    name: &str,
    config: &ListenerConfig,
    cores: usize,
) -> Result<TakenListener, NodeError> {
    let failed = |address: String, reason: String| NodeError::Address {
        listener: name.to_owned(),
        address,
        reason,
    };
    let address = resolve(&config.host, config.port)
        .map_err(|reason| failed(format!("{}:{}", config.host, config.port), reason))?;
    let take = |address: SocketAddr, shared: bool| {
        let taken = if shared {
            BoundAddress::take(address, true)
        } else {
            check_free(address).and_then(|()| BoundAddress::take(address, false))
        };
        taken.map_err(|error| failed(address.to_string(), busy(&error)))
    };
    if address.port() != 0 {
        // Sharing would let a second broker listen at the same port, each with half the clients.
        check_free(address).map_err(|error| failed(address.to_string(), busy(&error)))?;
    }
    let first = take(address, true)?;
    let address = first
        .local_addr()
        .map_err(|error| failed(address.to_string(), error.to_string()))?;
    let mut shared = vec![first];
    for _ in 1..cores {
        shared.push(take(address, true)?);
    }
    let mut own = Vec::new();
    if config.advertise == Advertise::Core {
        for core in 0..cores {
            let port =
                core_port(config, core).map_err(|reason| failed(address.to_string(), reason))?;
            own.push(take(SocketAddr::new(address.ip(), port), false)?);
        }
    }
    let core_ports = own
        .iter()
        .filter_map(|socket| Some(socket.local_addr().ok()?.port()))
        .collect();
    Ok(TakenListener {
        config: config.clone(),
        name: name.to_owned(),
        shared,
        own,
        address,
        core_ports,
    })
}

fn busy(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process listens there; stop it, or choose another port in the settings"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    use std::net::ToSocketAddrs;
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?
        .next();
    found.ok_or_else(|| "the host has no address".to_owned())
}

/// The port of a core's own; 0 for one that the kernel chooses.
fn core_port(config: &ListenerConfig, core: usize) -> Result<u16, String> {
    if config.advertised_port.is_some() && config.advertised_core_port(core).is_none() {
        return Err(format!(
            "clients would be told a port above 65535 for core {core}; set advertised_port lower"
        ));
    }
    config.core_port(core).ok_or_else(|| {
        format!("core {core} would listen on a port above 65535; set core_port_first lower")
    })
}

/// Starts to accept on a core; dropping what is returned stops it.
pub(super) fn listen(
    start: &Start,
    core: usize,
    broker: &Rc<Broker>,
) -> Result<Vec<Task<()>>, String> {
    let mut accepting = Vec::new();
    for taken in &start.listeners {
        let plan = Rc::new(taken.plan(start));
        for socket in [taken.shared.get(core), taken.own.get(core)]
            .into_iter()
            .flatten()
        {
            let listener = socket.listen().map_err(|error| {
                format!("listener {} at {}: {error}", taken.name, taken.address)
            })?;
            accepting.push(spawn(accept(Rc::clone(broker), listener, Rc::clone(&plan))));
        }
    }
    Ok(accepting)
}

impl TakenListener {
    fn plan(&self, start: &Start) -> ListenerPlan {
        // A proxy in front maps ports its own way: it has the node's port and, above it, the cores'.
        let port = |(core, own): (usize, &u16)| CorePort {
            listens: *own,
            advertised: self.config.advertised_core_port(core).unwrap_or(*own),
        };
        let core_ports = self.core_ports.iter().enumerate().map(port).collect();
        ListenerPlan {
            name: self.name.clone(),
            advertise: self.config.advertise,
            advertised_host: self.config.advertised_host.clone(),
            listens: self.address,
            node_port: self.config.advertised_port.unwrap_or(self.address.port()),
            core_ports,
            node: start.identity.node,
            cores: u16::try_from(start.cores).expect("bounded by the settings"),
            lanes: start.identity.lanes,
            rack: start.config.node.rack.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_core_has_a_port_and_one_that_clients_are_told() {
        // Proves the rule and its refusals: (port, first port of cores, port told, core, outcome).
        let table = [
            (9_092, 0, None, 1, Ok(10_093)),
            (0, 0, None, 1, Ok(0)),
            (0, 65_534, None, 1, Ok(65_535)),
            (0, 65_535, None, 1, Err("core_port_first")),
            (65_000, 0, None, 0, Err("core_port_first")),
            (0, 0, Some(64_534), 1, Ok(0)),
            (0, 0, Some(64_535), 1, Err("advertised_port")),
        ];
        for (port, core_port_first, advertised_port, core, expected) in table {
            let config = ListenerConfig {
                port,
                advertised_port,
                core_port_first,
                ..ListenerConfig::default()
            };
            match (core_port(&config, core), expected) {
                (Ok(port), Ok(expected)) => assert_eq!(port, expected, "{config:?}"),
                (Err(reason), Err(setting)) => {
                    assert!(
                        reason.ends_with(&format!("set {setting} lower")),
                        "{reason}"
                    );
                }
                (outcome, _) => panic!("core {core} of {config:?}: {outcome:?}"),
            }
        }
    }
}
