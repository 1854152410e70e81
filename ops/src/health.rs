//! Whether the node lives and serves, in atomics that every core may write at no cost. A failure has no
//! state here: a node that fails ends at once, and says why to standard error.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
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
}

impl State {
    /// The name shown to operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Starting,
            1 => Self::Recovering,
            2 => Self::Ready,
            _ => Self::Draining,
        }
    }
}

/// The node's state and each core's sign of life. Shared by all threads.
#[derive(Debug)]
pub struct Health {
    state: AtomicU8,
    cores: Box<[CoreHealth]>,
}

#[derive(Debug, Default)]
struct CoreHealth {
    beats: AtomicU64,
    /// It has stopped, as it was asked to, and beats no more.
    ended: AtomicBool,
    stalled: AtomicBool,
    degraded: AtomicBool,
    /// What is wrong now. Locked only while something is or was: a sound core never waits for a reader.
    troubles: Mutex<Troubles>,
}

/// What is wrong with a node that serves all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Bytes on disk that do not verify.
    pub damage: Option<DamageReport>,
    /// Why produce is refused.
    pub low_space: Option<LowSpace>,
}

impl Troubles {
    fn any(&self) -> bool {
        self.damage.is_some() || self.low_space.is_some()
    }
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

/// A disk with less free than must stay free: produce is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowSpace {
    /// The data directory.
    pub directory: String,
    /// What is free where it is.
    pub free_bytes: u64,
    /// What must stay free: `storage.min_free_bytes`.
    pub min_free_bytes: u64,
    /// What must be free before produce is taken again.
    pub resume_bytes: u64,
}

impl Health {
    /// The health of a node with this many cores, starting.
    pub fn new(cores: usize) -> Self {
        Self {
            state: AtomicU8::new(State::Starting as u8),
            cores: (0..cores).map(|_| CoreHealth::default()).collect(),
        }
    }

    /// Moves to another state.
    pub fn set(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    /// Where the node is.
    pub fn state(&self) -> State {
        State::from_number(self.state.load(Relaxed))
    }

    /// A sign of life of a core; about twice a second.
    pub fn beat(&self, core: usize) {
        if let Some(core) = self.cores.get(core) {
            core.beats.fetch_add(1, Relaxed);
        }
    }

    /// A core has come to its end: from here on it is silent by right.
    pub fn end(&self, core: usize) {
        if let Some(core) = self.cores.get(core) {
            core.ended.store(true, Relaxed);
        }
    }

    /// The cores that are stalled.
    pub fn stalled(&self) -> Vec<usize> {
        let stalled =
            |(index, core): (usize, &CoreHealth)| core.stalled.load(Relaxed).then_some(index);
        self.cores.iter().enumerate().filter_map(stalled).collect()
    }

    /// What is wrong on a core now, in place of what was before.
    pub fn set_troubles(&self, core: usize, troubles: Troubles) {
        let Some(core) = self.cores.get(core) else {
            return;
        };
        let degraded = troubles.any();
        if core.degraded.load(Relaxed) || degraded {
            *core.troubles.lock().unwrap_or_else(PoisonError::into_inner) = troubles;
            core.degraded.store(degraded, Relaxed);
        }
    }

    /// What is wrong, all cores together: damage in sum with its first place, and the least space.
    pub fn troubles(&self) -> Troubles {
        let degraded = self.cores.iter().filter(|core| core.degraded.load(Relaxed));
        let mut all = Troubles::default();
        for core in degraded {
            let own = core.troubles.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut all.damage, &own.damage) {
                (Some(all), Some(more)) => all.places += more.places,
                (first, own) => *first = first.take().or_else(|| own.clone()),
            }
            let spaces = [all.low_space.take(), own.low_space.clone()];
            let low = spaces.into_iter().flatten();
            all.low_space = low.min_by_key(|low| low.free_bytes);
        }
        all
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// Whether the process should live on: every core moves.
    pub fn is_live(&self) -> bool {
        self.stalled().is_empty()
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
            if beats != seen.beats || beats == 0 || !judged || core.ended.load(Relaxed) {
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
    fn a_core_that_has_ended_is_silent_by_right() {
        // Proves that of two silent cores of a node that stops only the one is stalled that has not ended.
        let health = Health::new(2);
        health.set(State::Draining);
        let mut watch = Watch::new(&health, at(0));
        health.beat(0);
        health.beat(1);
        assert_eq!(watch.look(&health, at(1)), []);
        health.end(1);
        assert_eq!(watch.look(&health, at(7)), [Change::Stalled(0)]);
        assert_eq!(health.stalled(), [0]);
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
    fn troubles_are_told_until_they_are_gone() {
        // Proves that the troubles of all cores are one report, that they change neither life nor readiness,
        // that another place is told even where there are as many as before, and that all goes when no core has any.
        let health = Health::new(2);
        health.set(State::Ready);
        let damage = |places, file: &str| {
            Some(DamageReport {
                places,
                file: file.to_owned(),
                position: 7,
            })
        };
        let low = |free_bytes| {
            Some(LowSpace {
                directory: "/data".to_owned(),
                free_bytes,
                min_free_bytes: 80,
                resume_bytes: 90,
            })
        };
        let steps = [
            ((0, damage(1, "a"), None), (damage(1, "a"), None)),
            ((1, damage(2, "b"), low(9)), (damage(3, "a"), low(9))),
            ((0, damage(1, "c"), low(7)), (damage(3, "c"), low(7))),
            ((1, damage(2, "b"), low(5)), (damage(3, "c"), low(5))),
            ((0, None, None), (damage(2, "b"), low(5))),
            ((1, None, low(6)), (None, low(6))),
            ((1, None, None), (None, None)),
        ];
        for (step, ((core, damage, low_space), (all_damage, all_low))) in
            steps.into_iter().enumerate()
        {
            health.set_troubles(core, Troubles { damage, low_space });
            let all = health.troubles();
            assert_eq!(
                (all.damage, all.low_space),
                (all_damage, all_low),
                "step {step}"
            );
            assert!(health.is_live() && health.is_ready(), "step {step}");
        }
    }

    #[test]
    fn states_survive_their_number() {
        // Proves: the number in the atomic and the state are one to one.
        use State::{Draining, Ready, Recovering, Starting};
        for state in [Starting, Recovering, Ready, Draining] {
            assert_eq!(State::from_number(state as u8), state);
        }
    }
}
