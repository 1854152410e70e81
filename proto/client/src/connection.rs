//! One connection to a broker, without the socket: which requests are under way, and which answer
//! is whose.
//!
//! Kafka answers the requests of a connection in the order they were sent. A broker that does not
//! is broken, and so is the connection from then on.

use std::collections::VecDeque;

use crate::inbound::{FrameError, Inbound};

/// The bounds of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// Answers larger than this end the connection: Kafka's brokers accept requests of 100 MiB,
    /// and one partition's batch may exceed what a fetch asked for.
    pub frame_bytes_max: usize,
    /// Requests under way at most.
    pub in_flight_max: usize,
    /// How long an answer may take.
    pub request_timeout_ms: u64,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        ConnectionConfig {
            frame_bytes_max: 128 << 20,
            in_flight_max: 64,
            request_timeout_ms: 30_000,
        }
    }
}

/// Why a connection cannot go on. Each but `Busy` is final: close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// As many requests are under way as may be: take answers first.
    #[error("{0} requests under way already")]
    Busy(usize),
    /// What came is not a sequence of frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An answer to something that is not next, or was never asked.
    #[error("answer to request {got} where {expected:?} was due")]
    OutOfOrder {
        /// The correlation id that is due; `None` if nothing is under way.
        expected: Option<i32>,
        /// The correlation id that came.
        got: i32,
    },
}

/// A request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// The id that its answer will carry.
    pub correlation_id: i32,
    /// The API's number.
    pub api_key: i16,
    /// The version that it was sent in, and so that of its answer.
    pub version: i16,
    /// When the answer is late.
    pub deadline_ms: u64,
}

/// An answer: the request that it answers, and its frame from the response header on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it answers.
    pub request: Awaited,
    /// Its bytes, correlation id first.
    pub frame: Vec<u8>,
}

/// Matches answers to requests. Owned by whoever owns the socket.
#[derive(Debug)]
pub struct Connection {
    config: ConnectionConfig,
    next_correlation_id: i32,
    in_flight: VecDeque<Awaited>,
    inbound: Inbound,
}

impl Connection {
    /// Nothing was sent yet.
    pub fn new(config: ConnectionConfig) -> Self {
        Connection {
            config,
            next_correlation_id: 0,
            in_flight: VecDeque::new(),
            inbound: Inbound::new(config.frame_bytes_max),
        }
    }

    /// Notes a request that is about to be sent, and returns the correlation id for its header.
    ///
    /// # Errors
    /// [`ConnectionError::Busy`]: take an answer first.
    pub fn begin(
        &mut self,
        api_key: i16,
        version: i16,
        now_ms: u64,
    ) -> Result<i32, ConnectionError> {
        self.begin_within(api_key, version, now_ms, self.config.request_timeout_ms)
    }

    /// As [`Connection::begin`], for a request that may take longer or less long than others.
    ///
    /// # Errors
    /// [`ConnectionError::Busy`]: take an answer first.
    pub fn begin_within(
        &mut self,
        api_key: i16,
        version: i16,
        now_ms: u64,
        timeout_ms: u64,
    ) -> Result<i32, ConnectionError> {
        if self.in_flight.len() >= self.config.in_flight_max {
            return Err(ConnectionError::Busy(self.in_flight.len()));
        }
        let correlation_id = self.begin_unanswered();
        let deadline_ms = now_ms.saturating_add(timeout_ms);
        self.in_flight.push_back(Awaited {
            correlation_id,
            api_key,
            version,
            deadline_ms,
        });
        Ok(correlation_id)
    }

    /// The correlation id of a request that gets no answer: a produce with `acks=0`.
    pub fn begin_unanswered(&mut self) -> i32 {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1) & i32::MAX;
        correlation_id
    }

    /// Where to put what arrives; then say how much with [`Connection::arrived`].
    pub fn space(&mut self) -> &mut [u8] {
        self.inbound.space()
    }

    /// Notes that so many bytes arrived in the space.
    pub fn arrived(&mut self, count: usize) {
        self.inbound.filled(count);
    }

    /// Takes the next answer that arrived whole.
    ///
    /// # Errors
    /// [`ConnectionError::Frame`] and [`ConnectionError::OutOfOrder`]: close the connection.
    pub fn take_answer(&mut self) -> Result<Option<Answer>, ConnectionError> {
        let Some(frame) = self.inbound.take_frame()? else {
            return Ok(None);
        };
        let got = frame
            .first_chunk::<4>()
            .map_or(-1, |id| i32::from_be_bytes(*id));
        match self.in_flight.pop_front() {
            Some(request) if request.correlation_id == got => Ok(Some(Answer { request, frame })),
            due => {
                let expected = due.map(|due| due.correlation_id);
                Err(ConnectionError::OutOfOrder { expected, got })
            }
        }
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// When the first of the answers that are due is late; `None` if nothing is under way.
    /// A late answer ends the connection: whether the request took effect is not known.
    pub fn deadline_ms(&self) -> Option<u64> {
        // In the order sent, but timeouts differ.
        self.in_flight
            .iter()
            .map(|request| request.deadline_ms)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(connection: &mut Connection, correlation_id: i32, body: &[u8]) {
        let length = i32::try_from(body.len() + 4).unwrap();
        let bytes = [
            &length.to_be_bytes()[..],
            &correlation_id.to_be_bytes(),
            body,
        ]
        .concat();
        connection.space()[..bytes.len()].copy_from_slice(&bytes);
        connection.arrived(bytes.len());
    }

    #[test]
    fn answers_meet_their_requests_in_order() {
        // Each answer comes with the request it is for, and the version to read it in.
        let mut connection = Connection::new(ConnectionConfig::default());
        assert_eq!(connection.begin(3, 12, 100), Ok(0));
        assert_eq!(connection.begin_unanswered(), 1);
        assert_eq!(connection.begin_within(1, 4, 100, 5), Ok(2));
        assert_eq!(connection.deadline_ms(), Some(105));
        assert_eq!(connection.take_answer(), Ok(None));
        arrive(&mut connection, 0, b"first");
        arrive(&mut connection, 2, b"second");
        let first = connection.take_answer().unwrap().unwrap();
        assert_eq!((first.request.api_key, first.request.version), (3, 12));
        assert_eq!(first.frame[4..], *b"first");
        let second = connection.take_answer().unwrap().unwrap();
        assert_eq!(
            (second.request.api_key, &second.frame[4..]),
            (1, &b"second"[..])
        );
        assert_eq!(connection.deadline_ms(), None);
    }

    #[test]
    fn an_answer_out_of_order_ends_the_connection() {
        // What nobody asked for, or not yet, is never given to somebody else.
        let mut connection = Connection::new(ConnectionConfig::default());
        arrive(&mut connection, 0, b"");
        let error = ConnectionError::OutOfOrder {
            expected: None,
            got: 0,
        };
        assert_eq!(connection.take_answer(), Err(error));
        connection.begin(3, 0, 0).unwrap();
        connection.begin(3, 0, 0).unwrap();
        arrive(&mut connection, 1, b"");
        let error = ConnectionError::OutOfOrder {
            expected: Some(0),
            got: 1,
        };
        assert_eq!(connection.take_answer(), Err(error));
    }

    #[test]
    fn requests_under_way_are_bounded() {
        // A full connection refuses until an answer was taken, and ids wrap within 31 bits.
        let config = ConnectionConfig {
            in_flight_max: 1,
            ..ConnectionConfig::default()
        };
        let mut connection = Connection::new(config);
        connection.next_correlation_id = i32::MAX;
        assert_eq!(connection.begin(3, 0, 0), Ok(i32::MAX));
        assert_eq!(connection.begin(3, 0, 0), Err(ConnectionError::Busy(1)));
        arrive(&mut connection, i32::MAX, b"");
        assert!(connection.take_answer().unwrap().is_some());
        assert_eq!(connection.begin(3, 0, 0), Ok(0));
    }
}
