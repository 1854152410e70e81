//! Incremental fetch sessions (KIP-227): the partitions a consumer follows are named once, and
//! later requests and responses carry only what changed.
//!
//! A session lives on the core that its connection landed on; its id means nothing elsewhere.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::TopicId;
use streambus_shards::Instant;

use crate::metadata::topic_name::NAME_BYTES_MAX;

/// The epoch of a request that wants no session, or that ends one.
pub(crate) const FINAL_EPOCH: i32 = -1;
/// The epoch of a request that wants a new session.
pub(crate) const INITIAL_EPOCH: i32 = 0;
/// A session unused for this long makes room for a new one (Kafka's
/// `min.incremental.fetch.session.eviction.ms`).
const EVICTABLE_AFTER: Duration = Duration::from_mins(2);

/// How a request names a topic: by id from version 13 on, by name before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum TopicRef {
    /// By name, which all partitions of a request share.
    Name(Rc<str>),
    /// By id.
    Id(TopicId),
}

/// A partition of a fetch: where to read and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The topic.
    pub topic: TopicRef,
    /// The partition's index in it.
    pub index: i32,
    /// First offset to read.
    pub fetch_offset: i64,
    /// At most about this many bytes.
    pub bytes_max: i32,
    /// The leader epoch the client believes in, -1 if it does not say.
    pub current_leader_epoch: i32,
    /// The epoch of the last record the client has, -1 if it does not say.
    pub last_fetched_epoch: i32,
}

/// What of a partition a session remembers having told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// The high watermark.
    pub high_watermark: i64,
    /// The log start.
    pub log_start: i64,
    /// Whether it was an error: an error is repeated until it is gone.
    pub failed: bool,
}

#[derive(Debug)]
struct Followed {
    wanted: Wanted,
    told: Option<Told>,
}

#[derive(Debug)]
struct Session {
    by_id: bool,
    next_epoch: i32,
    last_used: Instant,
    /// In the order in which they are served. Who got data goes to the end, so that the response
    /// limit starves nobody.
    order: BTreeMap<u64, Followed>,
    places: FxHashMap<(TopicRef, i32), u64>,
    next_place: u64,
}

impl Session {
    fn new(by_id: bool, now: Instant) -> Session {
        Session {
            by_id,
            next_epoch: 1,
            last_used: now,
            order: BTreeMap::new(),
            places: FxHashMap::default(),
            next_place: 0,
        }
    }

    fn follow(&mut self, wanted: Wanted) {
        let key = (wanted.topic.clone(), wanted.index);
        if let Some(followed) = self
            .places
            .get(&key)
            .and_then(|place| self.order.get_mut(place))
        {
            followed.wanted = wanted;
            return;
        }
        self.places.insert(key, self.next_place);
        self.order
            .insert(self.next_place, Followed { wanted, told: None });
        self.next_place += 1;
    }

    fn forget(&mut self, topic: &TopicRef, index: i32) {
        if let Some(place) = self.places.remove(&(topic.clone(), index)) {
            self.order.remove(&place);
        }
    }

    /// How many partitions more a request makes the session follow. One that is followed already only changes
    /// where it is read from.
    fn added_by(&self, request: &SessionRequest) -> usize {
        let follows = |topic: &TopicRef, index| self.places.contains_key(&(topic.clone(), index));
        let wanted = request.wanted.iter();
        let added = wanted.filter(|wanted| !follows(&wanted.topic, wanted.index));
        // Each once: a request may name the same one again and again.
        let forgotten: FxHashSet<&(TopicRef, i32)> = request.forgotten.iter().collect();
        let left = forgotten
            .iter()
            .filter(|(topic, index)| follows(topic, *index));
        added.count().saturating_sub(left.count())
    }

    fn wanted(&self) -> Vec<Wanted> {
        self.order
            .values()
            .map(|followed| followed.wanted.clone())
            .collect()
    }
}

/// What a fetch request says of its session.
#[derive(Debug)]
pub(crate) struct SessionRequest {
    /// 0 if it has none.
    pub session_id: i32,
    /// See [`FINAL_EPOCH`] and [`INITIAL_EPOCH`]; else the session's next.
    pub epoch: i32,
    /// Whether topics are named by id.
    pub by_id: bool,
    /// Partitions added or changed; all of them where there is no session.
    pub wanted: Vec<Wanted>,
    /// Partitions no longer followed.
    pub forgotten: Vec<(TopicRef, i32)>,
}

impl SessionRequest {
    /// Whether a session may keep its names: none is longer than a topic's can be.
    fn has_short_names(&self) -> bool {
        self.wanted.iter().all(|wanted| match &wanted.topic {
            TopicRef::Name(name) => name.len() <= NAME_BYTES_MAX,
            TopicRef::Id(_) => true,
        })
    }
}

/// What to fetch, and how to answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The id to answer with: 0 where there is no session.
    pub session_id: i32,
    /// Whether unchanged partitions are left out of the answer.
    pub incremental: bool,
    /// The partitions to read, in order.
    pub wanted: Vec<Wanted>,
}

/// The fetch sessions of one core.
#[derive(Debug)]
pub(crate) struct FetchSessions {
    sessions: BTreeMap<i32, Session>,
    sessions_max: usize,
    partitions_max: usize,
    partitions: usize,
    next_id: i32,
}

impl FetchSessions {
    /// At most `sessions_max` sessions that follow at most `partitions_max` partitions together;
    /// `first_id` (above 0) tells the cores' sessions apart in logs.
    pub(crate) fn new(sessions_max: usize, partitions_max: usize, first_id: i32) -> FetchSessions {
        assert!(first_id > 0, "0 means no session");
        FetchSessions {
            sessions: BTreeMap::new(),
            sessions_max,
            partitions_max,
            partitions: 0,
            next_id: first_id,
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Applies what a request says and plans its reads.
    ///
    /// # Errors
    /// `FETCH_SESSION_ID_NOT_FOUND`, `INVALID_FETCH_SESSION_EPOCH` or
    /// `FETCH_SESSION_TOPIC_ID_ERROR`: the client starts over with a full fetch.
    pub(crate) fn plan(
        &mut self,
        request: SessionRequest,
        now: Instant,
    ) -> Result<Plan, ErrorCode> {
        match request.epoch {
            FINAL_EPOCH => {
                self.end(request.session_id);
                Ok(Plan {
                    session_id: 0,
                    incremental: false,
                    wanted: request.wanted,
                })
            }
            INITIAL_EPOCH => {
                self.end(request.session_id);
                Ok(self.begin(request, now))
            }
            _ => self.resume(request, now),
        }
    }

    /// Whether an incremental answer mentions this partition, and remembers that it did.
    pub(crate) fn changed(
        &mut self,
        plan: &Plan,
        wanted: &Wanted,
        now: Told,
        has_records: bool,
    ) -> bool {
        if plan.session_id == 0 {
            return true;
        }
        let Some(session) = self.sessions.get_mut(&plan.session_id) else {
            return true;
        };
        let key = (wanted.topic.clone(), wanted.index);
        let Some(place) = session.places.get_mut(&key) else {
            return true;
        };
        let Some(mut followed) = session.order.remove(place) else {
            return true;
        };
        let changed = !plan.incremental || has_records || now.failed || followed.told != Some(now);
        followed.told = Some(now);
        if has_records {
            *place = session.next_place;
            session.next_place += 1;
        }
        session.order.insert(*place, followed);
        changed
    }

    fn begin(&mut self, request: SessionRequest, now: Instant) -> Plan {
        let sessionless = |wanted| Plan {
            session_id: 0,
            incremental: false,
            wanted,
        };
        // A client that follows nothing, as the first request of a new consumer does, still gets a
        // session: the partitions come with the next request.
        if !request.has_short_names() || !self.make_room(request.wanted.len(), now) {
            return sessionless(request.wanted);
        }
        let mut session = Session::new(request.by_id, now);
        for wanted in &request.wanted {
            session.follow(wanted.clone());
        }
        let id = self.free_id();
        self.partitions += session.order.len();
        self.sessions.insert(id, session);
        Plan {
            session_id: id,
            incremental: false,
            wanted: request.wanted,
        }
    }

    fn resume(&mut self, request: SessionRequest, now: Instant) -> Result<Plan, ErrorCode> {
        let id = request.session_id;
        let room = self.partitions_max.saturating_sub(self.partitions);
        let session = self
            .sessions
            .get_mut(&id)
            .ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.next_epoch != request.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != request.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let crowded = request.wanted.len() > room && session.added_by(&request) > room;
        if crowded || !request.has_short_names() {
            // No room to follow more: the client starts over and is served without a session.
            self.end(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        let before = session.order.len();
        for wanted in request.wanted {
            session.follow(wanted);
        }
        for (topic, index) in &request.forgotten {
            session.forget(topic, *index);
        }
        session.last_used = now;
        session.next_epoch = if request.epoch == i32::MAX {
            1
        } else {
            request.epoch + 1
        };
        let wanted = session.wanted();
        self.partitions = self.partitions + wanted.len() - before;
        Ok(Plan {
            session_id: id,
            incremental: true,
            wanted,
        })
    }

    fn end(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.order.len();
        }
    }

    /// Makes room for a session of `partitions`, if need be at the cost of one long unused.
    fn make_room(&mut self, partitions: usize, now: Instant) -> bool {
        let fits = |sessions: &FetchSessions| {
            sessions.sessions.len() < sessions.sessions_max
                && sessions.partitions + partitions <= sessions.partitions_max
        };
        if fits(self) {
            return true;
        }
        let oldest = self
            .sessions
            .iter()
            .min_by_key(|(_, session)| session.last_used);
        match oldest.map(|(id, session)| (*id, session.last_used)) {
            Some((id, last_used)) if now.since(last_used) >= EVICTABLE_AFTER => {
                self.end(id);
                fits(self)
            }
            _ => false,
        }
    }

    fn free_id(&mut self) -> i32 {
        loop {
            let id = self.next_id;
            self.next_id = if id == i32::MAX { 1 } else { id + 1 };
            if !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use streambus_shards::now;

    use super::*;

    thread_local! {
        static START: Instant = now();
    }

    /// A moment so many milliseconds after the start of the test.
    fn at(ms: u64) -> Instant {
        START.with(|start| *start + Duration::from_millis(ms))
    }

    fn wanted(index: i32, fetch_offset: i64) -> Wanted {
        Wanted {
            topic: TopicRef::Name("t".into()),
            index,
            fetch_offset,
            bytes_max: 1_000,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
        }
    }

    fn request(session_id: i32, epoch: i32, wanted: Vec<Wanted>) -> SessionRequest {
        SessionRequest {
            session_id,
            epoch,
            by_id: false,
            wanted,
            forgotten: Vec::new(),
        }
    }

    fn told(high_watermark: i64) -> Told {
        Told {
            high_watermark,
            log_start: 0,
            failed: false,
        }
    }

    fn indexes(plan: &Plan) -> Vec<i32> {
        plan.wanted.iter().map(|wanted| wanted.index).collect()
    }

    #[test]
    fn a_partition_that_is_forgotten_twice_makes_room_once() {
        // Proves that repeats do not get a request past the bound on partitions.
        let mut sessions = FetchSessions::new(10, 3, 1);
        let first = request(0, INITIAL_EPOCH, vec![wanted(0, 0)]);
        assert_eq!(sessions.plan(first, at(0)).expect("new").session_id, 1);
        let mut next = request(1, 1, (1..=4).map(|index| wanted(index, 0)).collect());
        next.forgotten = vec![(TopicRef::Name("t".into()), 0); 4];
        let refused = sessions.plan(next, at(1));
        assert_eq!(refused, Err(ErrorCode::FetchSessionIdNotFound));
        assert_eq!((sessions.len(), sessions.partitions), (0, 0));
    }

    #[test]
    fn a_session_keeps_no_name_that_no_topic_can_have() {
        // Proves it for a new session, which is not begun, and for one under way, which ends.
        let named = |bytes: usize| Wanted {
            topic: TopicRef::Name("x".repeat(bytes).into()),
            ..wanted(0, 0)
        };
        let mut sessions = FetchSessions::new(10, 100, 1);
        let plan = |sessions: &mut FetchSessions, id, epoch, bytes| {
            let plan = sessions.plan(request(id, epoch, vec![named(bytes)]), at(0));
            plan.map(|plan| plan.session_id)
        };
        let long = NAME_BYTES_MAX + 1;
        assert_eq!(plan(&mut sessions, 0, INITIAL_EPOCH, long), Ok(0));
        assert_eq!(plan(&mut sessions, 0, INITIAL_EPOCH, NAME_BYTES_MAX), Ok(1));
        let refused = Err(ErrorCode::FetchSessionIdNotFound);
        assert_eq!(plan(&mut sessions, 1, 1, long), refused);
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn incremental_requests_add_change_and_forget() {
        // Proves the life of a session as KIP-227 has it.
        let mut sessions = FetchSessions::new(10, 100, 1);
        let full = sessions
            .plan(
                request(0, INITIAL_EPOCH, vec![wanted(0, 5), wanted(1, 5)]),
                at(0),
            )
            .expect("new session");
        assert_eq!((full.session_id, full.incremental), (1, false));
        let mut next = request(1, 1, vec![wanted(1, 9), wanted(2, 0)]);
        next.forgotten.push((TopicRef::Name("t".into()), 0));
        let plan = sessions.plan(next, at(1)).expect("incremental");
        assert!(plan.incremental);
        assert_eq!(plan.wanted, vec![wanted(1, 9), wanted(2, 0)]);
        assert_eq!(
            sessions.plan(request(1, 1, vec![]), at(2)),
            Err(ErrorCode::InvalidFetchSessionEpoch)
        );
        assert_eq!(
            sessions.plan(request(7, 1, vec![]), at(2)),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
        let ended = sessions
            .plan(request(1, FINAL_EPOCH, vec![wanted(0, 0)]), at(3))
            .expect("final");
        assert_eq!(
            (ended.session_id, sessions.len(), sessions.partitions),
            (0, 0, 0)
        );
    }

    #[test]
    fn unchanged_partitions_are_left_out_and_served_ones_go_last() {
        // Proves that a partition is mentioned when it has records, news or an error, and fairness.
        let mut sessions = FetchSessions::new(10, 100, 1);
        let partitions = vec![wanted(0, 0), wanted(1, 0)];
        let full = sessions
            .plan(request(0, INITIAL_EPOCH, partitions), at(0))
            .expect("new session");
        assert!(
            sessions.changed(&full, &wanted(0, 0), told(0), false),
            "a full answer has all"
        );
        assert!(sessions.changed(&full, &wanted(1, 0), told(0), false));
        let plan = sessions
            .plan(request(1, 1, vec![]), at(0))
            .expect("incremental");
        assert!(!sessions.changed(&plan, &wanted(1, 0), told(0), false));
        assert!(sessions.changed(&plan, &wanted(0, 0), told(4), true));
        let plan = sessions
            .plan(request(1, 2, vec![]), at(0))
            .expect("incremental");
        assert_eq!(indexes(&plan), [1, 0], "who got records is served last");
        let failed = Told {
            failed: true,
            ..told(4)
        };
        assert!(sessions.changed(&plan, &wanted(0, 0), failed, false));
        assert!(
            sessions.changed(&plan, &wanted(0, 0), failed, false),
            "an error is repeated"
        );
    }

    #[test]
    fn full_cache_serves_without_a_session_until_one_is_old() {
        // Proves the bounds on sessions and on partitions together.
        let mut sessions = FetchSessions::new(1, 3, 1);
        let first = sessions
            .plan(request(0, INITIAL_EPOCH, vec![wanted(0, 0)]), at(0))
            .expect("ok");
        assert_eq!(first.session_id, 1);
        let second = sessions
            .plan(request(0, INITIAL_EPOCH, vec![wanted(0, 0)]), at(9))
            .expect("ok");
        assert_eq!(second.session_id, 0, "no room, so no session");
        let many = (0..3).map(|index| wanted(index + 1, 0)).collect();
        assert_eq!(
            sessions.plan(request(1, 1, many), at(10)),
            Err(ErrorCode::FetchSessionIdNotFound),
            "more partitions than fit end the session"
        );
        sessions
            .plan(request(0, INITIAL_EPOCH, vec![wanted(0, 0)]), at(20))
            .expect("ok");
        let late = 20 + u64::try_from(EVICTABLE_AFTER.as_millis()).unwrap();
        let third = sessions
            .plan(request(0, INITIAL_EPOCH, vec![wanted(0, 0)]), at(late))
            .expect("ok");
        assert_ne!(third.session_id, 0, "the old one made room");
        assert_eq!(sessions.len(), 1);
    }

    #[test]
    fn offsets_move_in_a_full_core_and_forgotten_partitions_make_room() {
        // Proves that a session of a full core goes on while its requests only say where to read next, or add no
        // more than they forget, and ends with one partition too many.
        let mut sessions = FetchSessions::new(1, 3, 1);
        let three = || (0..3).map(|index| wanted(index, 0)).collect();
        let begun = sessions.plan(request(0, INITIAL_EPOCH, three()), at(0));
        assert_eq!(begun.expect("new session").session_id, 1);
        let moved: Vec<Wanted> = (0..3).map(|index| wanted(index, 7)).collect();
        let plan = sessions.plan(request(1, 1, moved.clone()), at(1));
        assert_eq!(plan.expect("nothing is added").wanted, moved);
        let mut swapped = request(1, 2, vec![wanted(1, 8), wanted(3, 0)]);
        swapped.forgotten.push((TopicRef::Name("t".into()), 0));
        let plan = sessions.plan(swapped, at(2)).expect("one for another");
        assert_eq!((indexes(&plan), sessions.partitions), (vec![1, 2, 3], 3));
        let mut unknown = request(1, 3, vec![wanted(4, 0)]);
        unknown.forgotten.push((TopicRef::Name("t".into()), 9));
        assert_eq!(
            sessions.plan(unknown, at(3)),
            Err(ErrorCode::FetchSessionIdNotFound),
            "what was not followed leaves no room"
        );
        assert_eq!((sessions.len(), sessions.partitions), (0, 0));
    }

    #[test]
    fn names_and_ids_do_not_mix() {
        // Proves KIP-516's rule for sessions.
        let mut sessions = FetchSessions::new(1, 3, 1);
        sessions
            .plan(request(0, INITIAL_EPOCH, vec![wanted(0, 0)]), at(0))
            .expect("ok");
        let by_id = SessionRequest {
            by_id: true,
            ..request(1, 1, vec![])
        };
        assert_eq!(
            sessions.plan(by_id, at(0)),
            Err(ErrorCode::FetchSessionTopicIdError)
        );
    }
}
