//! One direction of a connection: bytes in flight, bytes that arrived, and the end of both.
//!
//! As TCP it loses and swaps nothing. What a link drops is sent again after a time-out that doubles, and
//! everything behind it waits. Its events are: something is [pushed](Pipe::push), the
//! [pump](Pipe::pump) runs at the moments that it named itself, something is [taken](Pipe::take).

use std::collections::VecDeque;

use crate::buffer::Buf;

/// The first time-out for a segment without acknowledgement (Linux: `TCP_RTO_MIN`).
pub(crate) const RTO_NS: u64 = 200_000_000;
/// The longest (Linux: `TCP_RTO_MAX`).
const RTO_NS_MAX: u64 = 120_000_000_000;
/// Time-outs before the connection is given up, after 15 minutes: 15 times it is sent again (Linux:
/// `tcp_retries2`), and the last of those waits too.
const RETRIES_MAX: u32 = 16;

/// What the network between two ends lets through at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    /// From the sender to the receiver.
    pub(crate) forward: bool,
    /// From the receiver back: acknowledgements, resets.
    pub(crate) backward: bool,
}

#[derive(Debug)]
struct Segment {
    /// Empty for the end of the stream.
    bytes: Buf,
    due_ns: u64,
}

/// What the pump did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pumped {
    /// Bytes or the end arrived.
    pub(crate) arrived: bool,
    /// Bytes were acknowledged: the sender may have room.
    pub(crate) acknowledged: bool,
    /// When to pump again.
    pub(crate) next_ns: Option<u64>,
    /// The sender's kernel has given up.
    pub(crate) gave_up: bool,
}

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Bytes in flight and unread, at most.
    capacity: usize,
    /// Sent and not acknowledged, in order.
    flight: VecDeque<Segment>,
    flight_bytes: usize,
    /// Segments at the front of `flight` that have arrived.
    arrived: usize,
    unread: VecDeque<Buf>,
    unread_bytes: usize,
    end_sent: bool,
    end_arrived: bool,
    /// Time-outs since the last acknowledgement.
    retries: u32,
    /// When the pump runs next.
    pump_ns: Option<u64>,
}

impl Pipe {
    pub(crate) fn new(capacity: usize) -> Pipe {
        assert!(capacity > 0, "a pipe without room never moves");
        Pipe {
            capacity,
            flight: VecDeque::new(),
            flight_bytes: 0,
            arrived: 0,
            unread: VecDeque::new(),
            unread_bytes: 0,
            end_sent: false,
            end_arrived: false,
            retries: 0,
            pump_ns: None,
        }
    }

    /// Bytes that the sender may push now.
    pub(crate) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.held())
    }

    /// Bytes in flight and unread.
    pub(crate) fn held(&self) -> usize {
        self.flight_bytes + self.unread_bytes
    }

    /// Bytes that the receiver may take now.
    pub(crate) fn unread(&self) -> usize {
        self.unread_bytes
    }

    /// Whether the sender has ended the stream.
    pub(crate) fn end_sent(&self) -> bool {
        self.end_sent
    }

    /// Whether the receiver knows the end of the stream.
    pub(crate) fn end_arrived(&self) -> bool {
        self.end_arrived
    }

    /// Sends bytes that are to arrive at a moment, or when what was sent before has. Returns when to pump,
    /// if that is news.
    pub(crate) fn push(&mut self, bytes: Buf, due_ns: u64) -> Option<u64> {
        assert!(
            !bytes.is_empty() && bytes.len() <= self.room(),
            "{} bytes where {} fit",
            bytes.len(),
            self.room()
        );
        assert!(!self.end_sent, "bytes after the end");
        self.flight_bytes += bytes.len();
        self.send(bytes, due_ns)
    }

    /// Ends the stream, behind all that was pushed. As [`Pipe::push`].
    pub(crate) fn push_end(&mut self, due_ns: u64) -> Option<u64> {
        assert!(!self.end_sent, "a stream ends once");
        self.end_sent = true;
        self.send(Buf::empty(), due_ns)
    }

    fn send(&mut self, bytes: Buf, due_ns: u64) -> Option<u64> {
        let before_ns = self.flight.back().map_or(0, |segment| segment.due_ns);
        let due_ns = due_ns.max(before_ns);
        self.flight.push_back(Segment { bytes, due_ns });
        if self.pump_ns.is_some() {
            return None;
        }
        self.pump_ns = Some(due_ns);
        self.pump_ns
    }

    /// Whether bytes, not only the end, would arrive now.
    pub(crate) fn bytes_due(&self, now_ns: u64) -> bool {
        self.flight
            .get(self.arrived)
            .is_some_and(|next| next.due_ns <= now_ns && !next.bytes.is_empty())
    }

    /// Moves what is due as far as the path lets it.
    pub(crate) fn pump(&mut self, now_ns: u64, path: Path) -> Pumped {
        self.pump_ns = None;
        let mut pumped = Pumped::default();
        while path.forward
            && let Some(segment) = self.flight.get(self.arrived)
            && segment.due_ns <= now_ns
        {
            if segment.bytes.is_empty() {
                self.end_arrived = true;
            } else {
                self.unread_bytes += segment.bytes.len();
                self.unread.push_back(segment.bytes.clone());
            }
            self.arrived += 1;
            pumped.arrived = true;
        }
        while path.backward && self.arrived > 0 {
            let segment = self.flight.pop_front().expect("it has arrived");
            self.arrived -= 1;
            self.flight_bytes -= segment.bytes.len();
            self.retries = 0;
            pumped.acknowledged = true;
        }
        let waits = self.flight.front().map(|segment| segment.due_ns);
        pumped.next_ns = match waits {
            Some(due_ns) if due_ns <= now_ns => self.back_off(now_ns),
            later => later,
        };
        pumped.gave_up = waits.is_some() && pumped.next_ns.is_none();
        self.pump_ns = pumped.next_ns;
        pumped
    }

    /// When the sender tries again; `None` when it gives up.
    fn back_off(&mut self, now_ns: u64) -> Option<u64> {
        if self.retries == RETRIES_MAX {
            return None;
        }
        let rto_ns = (RTO_NS << self.retries).min(RTO_NS_MAX);
        self.retries += 1;
        Some(now_ns + rto_ns)
    }

    /// The sender's kernel forgets what it has not delivered.
    pub(crate) fn forget_flight(&mut self) {
        self.flight.clear();
        self.flight_bytes = 0;
        self.arrived = 0;
    }

    /// The next bytes for the receiver, at most `count`, of one segment.
    pub(crate) fn take(&mut self, count: usize) -> Option<Buf> {
        let front = self.unread.front_mut()?;
        let taken = if count < front.len() {
            let taken = front.slice(0..count);
            *front = front.slice(count..front.len());
            taken
        } else {
            self.unread.pop_front()?
        };
        self.unread_bytes -= taken.len();
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Path = Path {
        forward: true,
        backward: true,
    };
    const CLOSED: Path = Path {
        forward: false,
        backward: false,
    };

    fn bytes(text: &str) -> Buf {
        Buf::from(text.as_bytes().to_vec())
    }

    fn take_all(pipe: &mut Pipe) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(taken) = pipe.take(3) {
            all.extend_from_slice(&taken);
        }
        all
    }

    #[test]
    fn bytes_arrive_in_order_and_the_room_is_bounded() {
        // Proves order even where a later segment has the shorter way, the bound, and when room returns.
        let mut pipe = Pipe::new(8);
        assert_eq!(pipe.push(bytes("abcde"), 50), Some(50));
        assert_eq!(pipe.push(bytes("fgh"), 10), None);
        assert_eq!((pipe.room(), pipe.unread()), (0, 0));
        let early = pipe.pump(49, OPEN);
        assert_eq!((early.arrived, early.next_ns), (false, Some(50)));
        let pumped = pipe.pump(50, OPEN);
        assert!(pumped.arrived && pumped.acknowledged && pumped.next_ns.is_none());
        assert_eq!((pipe.room(), pipe.unread()), (0, 8));
        assert_eq!(take_all(&mut pipe), b"abcdefgh");
        assert_eq!(pipe.room(), 8);
    }

    #[test]
    fn the_end_comes_behind_the_bytes() {
        // Proves that a receiver sees every byte before the end.
        let mut pipe = Pipe::new(8);
        pipe.push(bytes("abc"), 50);
        assert_eq!(pipe.push_end(10), None);
        pipe.pump(20, OPEN);
        assert!(pipe.end_sent() && !pipe.end_arrived());
        assert!(pipe.bytes_due(50));
        pipe.pump(50, OPEN);
        assert!(pipe.end_arrived() && !pipe.bytes_due(60));
        assert_eq!(take_all(&mut pipe), b"abc");
    }

    #[test]
    fn a_blocked_path_holds_and_a_healed_one_delivers() {
        // Proves the doubling time-outs, that nothing is lost meanwhile, and that a healed path starts over.
        let mut pipe = Pipe::new(8);
        pipe.push(bytes("abc"), 0);
        let (mut now_ns, mut waits) = (0, Vec::new());
        for _ in 0..12 {
            let pumped = pipe.pump(now_ns, CLOSED);
            assert!(!pumped.arrived && !pumped.gave_up);
            let next_ns = pumped.next_ns.unwrap();
            waits.push((next_ns - now_ns) / 1_000_000);
            now_ns = next_ns;
        }
        assert_eq!(waits[..4], [200, 400, 800, 1_600]);
        assert_eq!(waits[10..], [120_000, 120_000]);
        assert_eq!(pipe.push(bytes("de"), now_ns), None, "it waits in line");
        assert!(pipe.pump(now_ns, OPEN).acknowledged);
        assert_eq!(take_all(&mut pipe), b"abcde");
        pipe.push(bytes("f"), now_ns);
        let pumped = pipe.pump(now_ns, CLOSED);
        assert_eq!(pumped.next_ns, Some(now_ns + RTO_NS));
    }

    #[test]
    fn a_path_without_a_way_back_delivers_once_and_is_given_up() {
        // Proves that what is not acknowledged holds its room, arrives once, and fails after 15 minutes.
        let mut pipe = Pipe::new(8);
        pipe.push(bytes("abc"), 0);
        let mut now_ns = 0;
        let one_way = Path {
            forward: true,
            backward: false,
        };
        loop {
            let pumped = pipe.pump(now_ns, one_way);
            assert_eq!(pumped.arrived, now_ns == 0);
            let Some(next_ns) = pumped.next_ns else {
                assert!(pumped.gave_up);
                break;
            };
            now_ns = next_ns;
        }
        assert_eq!(now_ns / 1_000_000_000, 924);
        assert_eq!((take_all(&mut pipe).len(), pipe.room()), (3, 5));
    }
}
