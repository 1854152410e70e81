//! Whether the node lives and serves, in atomics that every core may write at no cost.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// A core that gives no sign of life for this long is stalled. Cores beat about twice a second, and
/// no work of theirs may run for more than milliseconds without a pause.
pub const STALL_LIMIT: Duration = Duration::from_secs(5);

/// Where the node is in its life.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Checking its surroundings.
    Starting = 0,
    /// Reading what is on disk.
    Recovering = 1,
    /// Serving clients.
    Ready = 2,
    /// Finishing what is under way.
    Draining = 3,
    /// Stopping because of a failure.
    Failed = 4,
}

impl State {
    /// The name shown to operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Starting,
            1 => Self::Recovering,
            2 => Self::Ready,
            3 => Self::Draining,
            _ => Self::Failed,
        }
    }
}

/// The node's state and each core's sign of life. Shared by all threads.
#[derive(Debug)]
pub struct Health {
    state: AtomicU8,
    failure: OnceLock<String>,
    cores: Box<[CoreHealth]>,
}

#[derive(Debug, Default)]
struct CoreHealth {
    beats: AtomicU64,
    stalled: AtomicBool,
    damaged_places: AtomicUsize,
    /// The first of them. Written only when their number changes.
    damage: Mutex<Option<DamageReport>>,
}

/// Bytes on disk that do not verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamageReport {
    /// How many places are damaged.
    pub places: usize,
    /// The file of the first of them.
    pub file: String,
    /// The byte in it.
    pub position: u64,
}

impl Health {
    /// The health of a node with this many cores, starting.
    pub fn new(cores: usize) -> Self {
        Self {
            state: AtomicU8::new(State::Starting as u8),
            failure: OnceLock::new(),
            cores: (0..cores).map(|_| CoreHealth::default()).collect(),
        }
    }

    /// Moves to another state. A failed node stays failed.
    pub fn set(&self, state: State) {
        // An error here would mean the node had failed: then that state stands.
        let _ = self.state.fetch_update(Relaxed, Relaxed, |now| {
            (State::from_number(now) != State::Failed).then_some(state as u8)
        });
    }

    /// Fails for this reason; the first reason stands.
    pub fn fail(&self, reason: &str) {
        let _ = self.failure.set(reason.to_owned());
        self.set(State::Failed);
    }

    /// Where the node is.
    pub fn state(&self) -> State {
        State::from_number(self.state.load(Relaxed))
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// A sign of life of a core; about twice a second.
    pub fn beat(&self, core: usize) {
        if let Some(core) = self.cores.get(core) {
            core.beats.fetch_add(1, Relaxed);
        }
    }

    /// The cores that are stalled.
    pub fn stalled(&self) -> Vec<usize> {
        let stalled =
            |(index, core): (usize, &CoreHealth)| core.stalled.load(Relaxed).then_some(index);
        self.cores.iter().enumerate().filter_map(stalled).collect()
    }

    /// What a core knows to be damaged on its disk now.
    pub fn set_damage(&self, core: usize, damage: Option<DamageReport>) {
        let Some(core) = self.cores.get(core) else {
            return;
        };
        let places = damage.as_ref().map_or(0, |damage| damage.places);
        if core.damaged_places.swap(places, Relaxed) != places {
            *core.damage.lock().unwrap_or_else(PoisonError::into_inner) = damage;
        }
    }

    /// All damage that is known: how much, and the first place.
    pub fn damage(&self) -> Option<DamageReport> {
        let damaged = self
            .cores
            .iter()
            .filter(|core| core.damaged_places.load(Relaxed) > 0);
        let reports = damaged.filter_map(|core| {
            let report = core.damage.lock().unwrap_or_else(PoisonError::into_inner);
            report.clone()
        });
        reports.reduce(|mut all, more| {
            all.places += more.places;
            all
        })
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// Whether the process should live on: it has not failed and every core moves.
    pub fn is_live(&self) -> bool {
        self.state() != State::Failed && self.stalled().is_empty()
    }

    /// Whether clients should be sent here.
    pub fn is_ready(&self) -> bool {
        self.state() == State::Ready && self.stalled().is_empty()
    }
}

/// What a look at the cores showed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A core has been silent past the limit.
    Stalled(usize),
    /// A stalled core moves again.
    Recovered(usize),
}

/// Watches the beats; lives on the ops thread.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Vec<Seen>,
}

#[derive(Copy, Clone, Debug)]
struct Seen {
    beats: u64,
    changed_at: Duration,
}

impl Watch {
    pub(crate) fn new(health: &Health, now: Duration) -> Self {
        Self {
            seen: vec![
                Seen {
                    beats: 0,
                    changed_at: now
                };
                health.cores()
            ],
        }
    }

    /// Looks at every core. Before the node serves, cores read their logs in long strides and
    /// silence means nothing; a core is judged from its first beat on.
    pub(crate) fn look(&mut self, health: &Health, now: Duration) -> Vec<Change> {
        let judged = matches!(health.state(), State::Ready | State::Draining);
        let mut changes = Vec::new();
        for (index, (seen, core)) in self.seen.iter_mut().zip(&health.cores).enumerate() {
            let beats = core.beats.load(Relaxed);
            if beats != seen.beats || beats == 0 || !judged {
                *seen = Seen {
                    beats,
                    changed_at: now,
                };
            }
            let stalled = now.saturating_sub(seen.changed_at) > STALL_LIMIT;
            match (core.stalled.swap(stalled, Relaxed), stalled) {
                (false, true) => changes.push(Change::Stalled(index)),
                (true, false) => changes.push(Change::Recovered(index)),
                (false, false) | (true, true) => {}
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_core_is_stalled_until_it_moves() {
        // Proves: only the silent core is named, once, and a beat clears it.
        let health = Health::new(2);
        health.set(State::Ready);
        let mut watch = Watch::new(&health, at(0));
        health.beat(0);
        health.beat(1);
        assert_eq!(watch.look(&health, at(1)), []);
        health.beat(1);
        assert_eq!(watch.look(&health, at(6)), []);
        health.beat(1);
        assert_eq!(watch.look(&health, at(7)), [Change::Stalled(0)]);
        assert_eq!(watch.look(&health, at(8)), []);
        assert_eq!(
            (health.stalled(), health.is_live(), health.is_ready()),
            (vec![0], false, false)
        );
        health.beat(0);
        assert_eq!(watch.look(&health, at(9)), [Change::Recovered(0)]);
        assert!(health.is_live() && health.is_ready());
    }

    #[test]
    fn recovery_may_take_long() {
        // Proves: a node that replays for minutes is alive and not ready, and starts with a clean slate.
        let health = Health::new(1);
        health.set(State::Recovering);
        let mut watch = Watch::new(&health, at(0));
        assert_eq!(watch.look(&health, at(600)), []);
        assert!(health.is_live() && !health.is_ready());
        health.set(State::Ready);
        assert_eq!(watch.look(&health, at(601)), []);
        assert!(health.is_ready());
    }

    #[test]
    fn damage_is_told_until_it_is_gone() {
        // Proves that the damage of all cores is one report, that it changes neither life nor readiness, and
        // that it goes when no core has any.
        let health = Health::new(2);
        health.set(State::Ready);
        let of = |places, file: &str| {
            let (file, position) = (file.to_owned(), 7);
            Some(DamageReport {
                places,
                file,
                position,
            })
        };
        health.set_damage(0, of(1, "a"));
        health.set_damage(1, of(2, "b"));
        assert_eq!(health.damage(), of(3, "a"));
        assert!(health.is_live() && health.is_ready());
        health.set_damage(0, None);
        assert_eq!(health.damage(), of(2, "b"));
        health.set_damage(1, None);
        assert_eq!(health.damage(), None);
    }

    #[test]
    fn a_failure_is_final() {
        // Proves: no later state hides a failure, and its first reason stands.
        let health = Health::new(1);
        health.fail("sync failed");
        health.fail("another");
        health.set(State::Ready);
        assert_eq!(
            (health.state(), health.failure()),
            (State::Failed, Some("sync failed"))
        );
        assert!(!health.is_live() && !health.is_ready());
    }

    #[test]
    fn states_survive_their_number() {
        // Proves: the number in the atomic and the state are one to one.
        use State::{Draining, Failed, Ready, Recovering, Starting};
        for state in [Starting, Recovering, Ready, Draining, Failed] {
            assert_eq!(State::from_number(state as u8), state);
        }
    }
}
