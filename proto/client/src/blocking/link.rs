//! One connection to one broker: a transport, who is waiting on it, and what the broker serves.

use std::collections::VecDeque;
use std::time::Duration;

use streambus_proto::api::ApiKey;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::api_versions_request::ApiVersionsRequest;

use super::transport::{Clock, Transport, TransportError};
use crate::connection::{Answer, Connection, ConnectionConfig};
use crate::error::ClientError;
use crate::request::{Reply, Request, encode};
use crate::versions::Versions;

/// What a link needs to know.
#[derive(Debug, Clone)]
pub(super) struct LinkConfig {
    pub(super) client_id: String,
    pub(super) connect_timeout: Duration,
    pub(super) connection: ConnectionConfig,
}

#[derive(Debug)]
pub(super) struct Link {
    transport: Transport,
    connection: Connection,
    versions: Versions,
    client_id: String,
    clock: Clock,
    /// Answers that came while another was waited for, in the order they came.
    early: VecDeque<Answer>,
    early_max: usize,
}

/// The version of `ApiVersions` asked first: known to brokers since 2.4, and the first that says
/// who asks.
const API_VERSIONS_FIRST: i16 = 3;

impl Link {
    /// Connects and learns what the broker serves.
    pub(super) fn open(
        host: &str,
        port: u16,
        config: &LinkConfig,
        clock: Clock,
    ) -> Result<Self, ClientError> {
        let mut link = Link {
            transport: Transport::connect(host, port, config.connect_timeout)?,
            connection: Connection::new(config.connection),
            versions: Versions::default(),
            client_id: config.client_id.clone(),
            clock,
            early: VecDeque::new(),
            early_max: config.connection.in_flight_max,
        };
        link.versions = link.ask_versions()?;
        Ok(link)
    }

    fn ask_versions(&mut self) -> Result<Versions, ClientError> {
        let request = ApiVersionsRequest {
            client_software_name: "streambus-client".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        for version in [API_VERSIONS_FIRST, 0] {
            let id = self.send_in(&request, version, &[])?;
            let reply = self.wait::<ApiVersionsRequest>(id)?;
            // A refusal of the version is in the form of version 0, and so starts with the code.
            let refused = reply.read_as(0).is_ok_and(|answer| {
                ErrorCode::from_i16(answer.error_code) == ErrorCode::UnsupportedVersion
            });
            if refused && version > 0 {
                continue;
            }
            let answer = reply.read()?;
            ClientError::check("api versions", answer.error_code, None)?;
            let ranges = answer.api_keys.iter();
            return Ok(Versions::new(
                ranges.map(|r| (r.api_key, r.min_version, r.max_version)),
            ));
        }
        Err(ClientError::GaveUp(
            "the broker knows no version of ApiVersions".into(),
        ))
    }

    /// The version in which `key` is spoken here.
    pub(super) fn version(&self, key: ApiKey) -> Result<i16, ClientError> {
        let ours = key.info();
        Ok(self.versions.choose(key as i16, (ours.first, ours.last))?)
    }

    /// Sends and waits for the answer.
    pub(super) fn call<R: Request>(&mut self, request: &R) -> Result<Reply<R>, ClientError> {
        let id = self.send(request, &[])?;
        self.wait(id)
    }

    /// Sends and returns at once, with the id to wait for. `spliced` are the bytes of the
    /// request's `Records::Splice`, in order.
    pub(super) fn send<R: Request>(
        &mut self,
        request: &R,
        spliced: &[&[u8]],
    ) -> Result<i32, ClientError> {
        let version = self.version(R::KEY)?;
        self.send_in(request, version, spliced)
    }

    /// Sends what will not be answered.
    pub(super) fn send_unanswered<R: Request>(
        &mut self,
        request: &R,
        spliced: &[&[u8]],
    ) -> Result<(), ClientError> {
        let version = self.version(R::KEY)?;
        let id = self.connection.begin_unanswered();
        self.write(request, version, id, spliced)
    }

    fn send_in<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        spliced: &[&[u8]],
    ) -> Result<i32, ClientError> {
        let id = self
            .connection
            .begin(R::KEY as i16, version, self.clock.now_ms())?;
        self.write(request, version, id, spliced)?;
        Ok(id)
    }

    fn write<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        correlation_id: i32,
        spliced: &[&[u8]],
    ) -> Result<(), ClientError> {
        let outgoing = encode(request, version, correlation_id, &self.client_id)?;
        assert_eq!(
            outgoing.splices.len(),
            spliced.len(),
            "every splice has its bytes"
        );
        let mut rest = outgoing.bytes.as_slice();
        let mut position = 0;
        let mut parts = Vec::with_capacity(2 * spliced.len() + 1);
        for (splice, bytes) in outgoing.splices.iter().zip(spliced) {
            assert_eq!(splice.len, bytes.len(), "the length was announced");
            let (before, after) = rest.split_at(splice.position - position);
            parts.extend([before, bytes]);
            (position, rest) = (splice.position, after);
        }
        parts.push(rest);
        Ok(self.transport.write(&parts)?)
    }

    /// Waits for the answer with this id.
    pub(super) fn wait<R: Request>(
        &mut self,
        correlation_id: i32,
    ) -> Result<Reply<R>, ClientError> {
        if let Some(place) = self
            .early
            .iter()
            .position(|answer| answer.request.correlation_id == correlation_id)
            && let Some(answer) = self.early.remove(place)
        {
            return Ok(Reply::new(answer));
        }
        loop {
            let answer = self.receive()?;
            if answer.request.correlation_id == correlation_id {
                return Ok(Reply::new(answer));
            }
            self.keep(answer);
        }
    }

    /// Keeps an answer for whoever waits for it. As many are wanted as were under way at once; what
    /// is older was left behind by somebody who went away, such as a producer that was dropped.
    fn keep(&mut self, answer: Answer) {
        if self.early.len() >= self.early_max {
            self.early.pop_front();
        }
        self.early.push_back(answer);
    }

    #[cfg(test)]
    pub(super) fn early_len(&self) -> usize {
        self.early.len()
    }

    /// Takes the answer with this id if it has come.
    pub(super) fn wait_no_longer<R: Request>(
        &mut self,
        correlation_id: i32,
    ) -> Result<Option<Reply<R>>, ClientError> {
        loop {
            while let Some(answer) = self.connection.take_answer()? {
                self.keep(answer);
            }
            let wanted = |answer: &Answer| answer.request.correlation_id == correlation_id;
            if let Some(place) = self.early.iter().position(wanted) {
                return Ok(self.early.remove(place).map(Reply::new));
            }
            let Some(count) = self.transport.read_arrived(self.connection.space())? else {
                let late = self
                    .connection
                    .deadline_ms()
                    .is_some_and(|d| d <= self.clock.now_ms());
                return if late {
                    Err(TransportError::TimedOut.into())
                } else {
                    Ok(None)
                };
            };
            self.connection.arrived(count);
        }
    }

    /// Waits for the answer with this id, at most `wait`; `None` if it has not come by then.
    pub(super) fn wait_within<R: Request>(
        &mut self,
        correlation_id: i32,
        wait: Duration,
    ) -> Result<Option<Reply<R>>, ClientError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let end_ms = self.clock.now_ms().saturating_add(wait_ms);
        loop {
            if let Some(reply) = self.wait_no_longer(correlation_id)? {
                return Ok(Some(reply));
            }
            let left = end_ms.saturating_sub(self.clock.now_ms());
            if left == 0 {
                return Ok(None);
            }
            let space = self.connection.space();
            match self.transport.read(space, Duration::from_millis(left)) {
                Ok(count) => self.connection.arrived(count),
                Err(TransportError::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the next answer, whatever it answers.
    fn receive(&mut self) -> Result<Answer, ClientError> {
        loop {
            if let Some(answer) = self.connection.take_answer()? {
                return Ok(answer);
            }
            let deadline_ms = self.connection.deadline_ms().unwrap_or(0);
            let left = deadline_ms.saturating_sub(self.clock.now_ms());
            if left == 0 {
                return Err(TransportError::TimedOut.into());
            }
            let space = self.connection.space();
            let count = self.transport.read(space, Duration::from_millis(left))?;
            self.connection.arrived(count);
        }
    }
}
