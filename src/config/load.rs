//! Applies what the sources say, refusing what nothing knows.

use std::collections::BTreeMap;

use super::{
    Config, ConfigError, DEFAULT_LISTENER, ListenerConfig, Origin, Sources,
    section::{Entry, Refusal, Section},
    source::{self, Assignment},
    value::Raw,
};

/// More listeners than anyone needs; each costs sockets on every core.
const LISTENERS_MAX: usize = 16;
/// Names appear in log lines and metrics.
const LISTENER_NAME_BYTES_MAX: usize = 32;
/// The section whose second part is a name of the user's choice.
const LISTENERS: &str = "listeners";
/// Below this likeness (0 to 1) a suggestion would only puzzle.
const LIKENESS_MIN: f64 = 0.75;

/// Settings and where each of them came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings, every one within its bound.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value at a dotted path came from.
    pub fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or_default()
    }
}

impl Config {
    /// Reads the settings of all sources.
    ///
    /// # Errors
    /// The first thing that is wrong, in one line that a user can act on.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let assignments = source::assignments(sources)?;
        let mut config = Self {
            listeners: BTreeMap::new(),
            ..Self::default()
        };
        let mut origins = BTreeMap::new();
        for assignment in assignments {
            config.apply(&assignment)?;
            origins.insert(assignment.path, assignment.origin);
        }
        if config.listeners.is_empty() {
            config
                .listeners
                .insert(DEFAULT_LISTENER.to_owned(), ListenerConfig::default());
        }
        let loaded = Loaded { config, origins };
        loaded.check()?;
        Ok(loaded)
    }

    fn apply(&mut self, assignment: &Assignment) -> Result<(), ConfigError> {
        let Assignment { path, raw, origin } = assignment;
        let Some((section, key)) = path.split_once('.') else {
            let empty = *raw == Raw::EMPTY_TABLE && self.sections().contains(path);
            return empty.then_some(()).ok_or_else(|| self.unknown(assignment));
        };
        let outcome = match section {
            "node" => self.node.set(key, raw),
            "data" => self.data.set(key, raw),
            "storage" => self.storage.set(key, raw),
            "limits" => self.limits.set(key, raw),
            "topics" => self.topics.set(key, raw),
            "admin" => self.admin.set(key, raw),
            "metrics" => self.metrics.set(key, raw),
            "log" => self.log.set(key, raw),
            "shutdown" => self.shutdown.set(key, raw),
            LISTENERS => self.set_listener(key, assignment)?,
            _ => Err(Refusal::Unknown),
        };
        outcome.map_err(|refusal| match refusal {
            Refusal::Unknown => self.unknown(assignment),
            Refusal::Wants(wants) => ConfigError::Value {
                path: path.clone(),
                value: raw.to_string(),
                origin: origin.clone(),
                wants,
            },
        })
    }

    fn set_listener(
        &mut self,
        rest: &str,
        assignment: &Assignment,
    ) -> Result<Result<(), Refusal>, ConfigError> {
        // One that sets nothing is a listener with the defaults.
        let empty = assignment.raw == Raw::EMPTY_TABLE && !rest.contains('.');
        let (name, key) = match rest.split_once('.') {
            Some((name, key)) => (name, key),
            None if empty => (rest, ""),
            None => return Ok(Err(Refusal::Unknown)),
        };
        let usable = |letter: char| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '_')
        };
        let conflict = |reason: String| ConfigError::Conflict {
            reason: format!("{reason} ({})", assignment.origin),
        };
        if !(1..=LISTENER_NAME_BYTES_MAX).contains(&name.len()) || !name.chars().all(usable) {
            return Err(conflict(format!(
                "listener name {name:?} must be 1 to {LISTENER_NAME_BYTES_MAX} of a-z, 0-9, - and _"
            )));
        }
        // The key first: a misspelt one must not leave a listener behind.
        let mut listener = self.listeners.get(name).cloned().unwrap_or_default();
        let outcome = if empty {
            Ok(())
        } else {
            listener.set(key, &assignment.raw)
        };
        if outcome.is_ok() {
            self.listeners.insert(name.to_owned(), listener);
            if self.listeners.len() > LISTENERS_MAX {
                return Err(conflict(format!(
                    "listener {name} is one more than the {LISTENERS_MAX} allowed"
                )));
            }
        }
        Ok(outcome)
    }

    fn unknown(&self, assignment: &Assignment) -> ConfigError {
        let mut known: Vec<String> = self
            .entries()
            .into_iter()
            .flat_map(|(section, entries)| {
                entries
                    .into_iter()
                    .map(move |entry| format!("{section}.{}", entry.key))
            })
            .collect();
        let listener = assignment.path.split('.').nth(1).filter(|_| {
            assignment.path.starts_with(LISTENERS) && assignment.path.split('.').count() == 3
        });
        let listener = listener.unwrap_or(DEFAULT_LISTENER);
        known.extend(
            ListenerConfig::KEYS
                .iter()
                .map(|key| format!("{LISTENERS}.{listener}.{key}")),
        );
        if !assignment.path.contains('.') {
            known.extend(self.sections());
        }
        ConfigError::Unknown {
            path: assignment.path.clone(),
            origin: assignment.origin.clone(),
            suggestion: closest(&assignment.path, &known),
        }
    }

    /// The names of sections.
    fn sections(&self) -> Vec<String> {
        let mut names: Vec<String> = self.entries().into_iter().map(|(name, _)| name).collect();
        names.push(LISTENERS.to_owned());
        names
    }

    /// Every setting by section, in the order in which they are shown.
    pub(super) fn entries(&self) -> Vec<(String, Vec<Entry>)> {
        let mut all = vec![
            ("node".to_owned(), self.node.entries()),
            ("data".to_owned(), self.data.entries()),
        ];
        all.extend(
            self.listeners
                .iter()
                .map(|(name, listener)| (format!("{LISTENERS}.{name}"), listener.entries())),
        );
        all.extend([
            ("storage".to_owned(), self.storage.entries()),
            ("limits".to_owned(), self.limits.entries()),
            ("topics".to_owned(), self.topics.entries()),
            ("admin".to_owned(), self.admin.entries()),
            ("metrics".to_owned(), self.metrics.entries()),
            ("log".to_owned(), self.log.entries()),
            ("shutdown".to_owned(), self.shutdown.entries()),
        ]);
        all
    }
}

/// The known path most like `path`; the last part alone counts too, for a key in no or in the wrong section.
fn closest(path: &str, known: &[String]) -> Option<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |candidate: &String| {
        let whole = strsim::normalized_damerau_levenshtein(path, candidate);
        let key = strsim::normalized_damerau_levenshtein(&last(path), &last(candidate));
        // Between two candidates with the same key, the one in the like section wins.
        whole.max(0.9 * key + 0.1 * whole)
    };
    known
        .iter()
        .map(|candidate| (likeness(candidate), candidate))
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .map(|(_, candidate)| candidate.clone())
}
