//! The figures of topics. Each core counts into series of its own; a scrape adds the cores up. A bounded number of
//! topics have their own series, all others share one, so that figures take a bounded room however many topics
//! there are, and no counter but that of a deleted topic ever goes back.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustc_hash::FxHashMap;
use streambus_proto::ids::TopicId;

use crate::{
    families::{self, Family, Kind},
    registry::Registry,
};

/// The label of the topics beyond `metrics.topics_max`. No topic has this name: parentheses are not allowed in one.
pub(crate) const OTHER: &str = "(other)";

/// What one core counts of one topic. Only that core writes, so an addition is a load and a store. On a cache
/// line of its own, so that two cores never write the same one.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct TopicMetrics {
    bytes_in: AtomicU64,
    records_in: AtomicU64,
    bytes_out: AtomicU64,
    records_out: AtomicU64,
    log_bytes: AtomicU64,
    /// What becomes `log_bytes` when all partitions were looked at.
    sized_bytes: AtomicU64,
}

fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
}

impl TopicMetrics {
    /// Counts a batch that was appended.
    pub fn appended(&self, bytes: u64, records: u64) {
        add(&self.bytes_in, bytes);
        add(&self.records_in, records);
    }

    /// Counts what a fetch answer carries.
    pub fn sent(&self, bytes: u64, records: u64) {
        add(&self.bytes_out, bytes);
        add(&self.records_out, records);
    }

    /// Adds the size of a partition, for [`CoreTopics::show_log_bytes`].
    pub fn sized(&self, bytes: u64) {
        add(&self.sized_bytes, bytes);
    }

    fn read(&self) -> Figures {
        [
            &self.bytes_in,
            &self.records_in,
            &self.bytes_out,
            &self.records_out,
            &self.log_bytes,
        ]
        .map(|cell| cell.load(Relaxed))
    }
}

/// A topic's figures in the order of [`FAMILIES`].
type Figures = [u64; FAMILIES.len()];

/// The families whose label is a topic.
const FAMILIES: [Family; 5] = [
    families::TOPIC_BYTES_IN,
    families::TOPIC_RECORDS_IN,
    families::TOPIC_BYTES_OUT,
    families::TOPIC_RECORDS_OUT,
    families::TOPIC_LOG_BYTES,
];

/// The topics of one core. All cores hear of the same topics in the same order, so all give the same ones series
/// of their own.
pub struct CoreTopics {
    registry: Registry,
    topics_max: usize,
    own: RefCell<FxHashMap<TopicId, Arc<TopicMetrics>>>,
    /// Made when the first topic has to share.
    other: RefCell<Option<Arc<TopicMetrics>>>,
}

impl CoreTopics {
    pub(crate) fn new(registry: &Registry, topics_max: usize) -> Self {
        Self {
            registry: registry.clone(),
            topics_max,
            own: RefCell::default(),
            other: RefCell::default(),
        }
    }

    /// The series of a topic that this core hears of, made if there is none. Takes the registry's lock then.
    pub fn begin(&self, id: TopicId, name: &str) -> Arc<TopicMetrics> {
        let mut own = self.own.borrow_mut();
        if let Some(known) = own.get(&id) {
            return Arc::clone(known);
        }
        if own.len() < self.topics_max {
            let series = self.registry.topics().begin(name);
            own.insert(id, Arc::clone(&series));
            return series;
        }
        let mut other = self.other.borrow_mut();
        Arc::clone(other.get_or_insert_with(|| self.registry.topics().begin(OTHER)))
    }

    /// Ends the series of a deleted topic. Its place goes to the next topic that is created.
    pub fn end(&self, id: TopicId, name: &str) {
        if let Some(series) = self.own.borrow_mut().remove(&id) {
            self.registry.topics().end(name, &series);
        }
    }

    /// Counts what a fetch answer carries of a topic.
    pub fn sent(&self, id: TopicId, bytes: u64, records: u64) {
        if let Some(series) = self.own.borrow().get(&id) {
            series.sent(bytes, records);
        } else if let Some(other) = &*self.other.borrow() {
            other.sent(bytes, records);
        }
    }

    /// Shows what [`TopicMetrics::sized`] was given since the last call: the sizes of all partitions that this
    /// core leads.
    pub fn show_log_bytes(&self) {
        let (own, other) = (self.own.borrow(), self.other.borrow());
        for series in own.values().chain(&*other) {
            let bytes = series.sized_bytes.swap(0, Relaxed);
            series.log_bytes.store(bytes, Relaxed);
        }
    }
}

/// The series of all cores by topic name.
#[derive(Default)]
pub(crate) struct TopicRegistry(Mutex<BTreeMap<Arc<str>, Vec<Arc<TopicMetrics>>>>);

impl TopicRegistry {
    fn begin(&self, name: &str) -> Arc<TopicMetrics> {
        let series = Arc::new(TopicMetrics::default());
        let mut topics = self.lock();
        match topics.get_mut(name) {
            Some(known) => known.push(Arc::clone(&series)),
            None => drop(topics.insert(name.into(), vec![Arc::clone(&series)])),
        }
        series
    }

    fn end(&self, name: &str, series: &Arc<TopicMetrics>) {
        let mut topics = self.lock();
        let Some(known) = topics.get_mut(name) else {
            return;
        };
        known.retain(|one| !Arc::ptr_eq(one, series));
        if known.is_empty() {
            topics.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Vec<Arc<TopicMetrics>>>> {
        // A panic while it was held can't have left a series half made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each topic's figures, all cores together. Formatting comes after the lock, which a core may wait for.
    fn figures(&self) -> Vec<(Arc<str>, Figures)> {
        let topics = self.lock();
        let sum = |cores: &Vec<Arc<TopicMetrics>>| {
            let mut sum = Figures::default();
            for core in cores {
                for (total, figure) in sum.iter_mut().zip(core.read()) {
                    *total = total.wrapping_add(figure);
                }
            }
            sum
        };
        let figures = topics
            .iter()
            .map(|(name, cores)| (Arc::clone(name), sum(cores)));
        figures.collect()
    }

    /// Appends all figures in Prometheus's text format.
    pub(crate) fn render(&self, out: &mut String) {
        let topics = self.figures();
        if topics.is_empty() {
            return;
        }
        for (place, family) in FAMILIES.iter().enumerate() {
            let kind = match family.kind {
                Kind::Gauge => "gauge",
                Kind::Counter | Kind::Histogram(_) => "counter",
            };
            // Writing to a string does not fail.
            let _ = writeln!(out, "# HELP {} {}", family.name, family.help);
            let _ = writeln!(out, "# TYPE {} {kind}", family.name);
            for (topic, figures) in &topics {
                // A topic's name has no character that would have to be escaped.
                let _ = writeln!(
                    out,
                    "{}{{topic=\"{topic}\"}} {}",
                    family.name, figures[place]
                );
            }
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> TopicId {
        TopicId([number; 16])
    }

    /// The figures of one family by topic.
    fn shown(registry: &Registry, family: Family) -> Vec<(String, u64)> {
        let text = registry.render();
        let start = format!("{}{{topic=\"", family.name);
        let lines = text.lines().filter_map(|line| line.strip_prefix(&start));
        let shown = lines.map(|line| {
            let (topic, value) = line.split_once("\"} ").expect("a series");
            (topic.to_owned(), value.parse().expect("a number"))
        });
        shown.collect()
    }

    #[test]
    fn cores_are_added_up_by_topic() {
        // Proves: every family has the sum of what each core counted, under the topic's name.
        let registry = Registry::new();
        let (first, second) = (
            CoreTopics::new(&registry, 10),
            CoreTopics::new(&registry, 10),
        );
        for core in [&first, &second] {
            let series = core.begin(id(1), "orders");
            series.appended(100, 2);
            core.sent(id(1), 30, 1);
            // Two partitions, looked at twice.
            for bytes in [1, 3] {
                series.sized(bytes);
                series.sized(4);
                core.show_log_bytes();
            }
        }
        let expected = [200, 4, 60, 2, 14];
        for (family, expected) in FAMILIES.into_iter().zip(expected) {
            assert_eq!(shown(&registry, family), [("orders".to_owned(), expected)]);
            let head = format!("# HELP {} {}", family.name, family.help);
            assert!(registry.render().contains(&head), "{head}");
        }
    }

    #[test]
    fn topics_beyond_the_limit_share_one_series() {
        // Proves: the number of series is bounded, nothing is left uncounted, and the shared counters do not go
        // back when a topic that shares them is deleted.
        let registry = Registry::new();
        let core = CoreTopics::new(&registry, 2);
        for number in 0..5 {
            let series = core.begin(id(number), &format!("t{number}"));
            series.appended(10, 1);
            core.sent(id(number), 1, 1);
        }
        let size = |count: u8| {
            for number in 0..count {
                core.begin(id(number), &format!("t{number}")).sized(100);
            }
            core.show_log_bytes();
        };
        size(5);
        let with = |other| {
            let own = |name: &str, value| (name.to_owned(), value);
            move |value| vec![own(OTHER, other), own("t0", value), own("t1", value)]
        };
        assert_eq!(shown(&registry, families::TOPIC_BYTES_IN), with(30)(10));
        assert_eq!(shown(&registry, families::TOPIC_RECORDS_OUT), with(3)(1));
        assert_eq!(shown(&registry, families::TOPIC_LOG_BYTES), with(300)(100));
        core.end(id(4), "t4");
        size(4);
        assert_eq!(shown(&registry, families::TOPIC_BYTES_IN), with(30)(10));
        assert_eq!(shown(&registry, families::TOPIC_LOG_BYTES), with(200)(100));
    }

    #[test]
    fn a_deleted_topic_leaves_and_its_place_is_free() {
        // Proves: no series of a deleted topic stays, and one of the same name begins at 0.
        let registry = Registry::new();
        let cores = [CoreTopics::new(&registry, 1), CoreTopics::new(&registry, 1)];
        for core in &cores {
            core.begin(id(1), "orders").appended(10, 1);
            core.end(id(1), "orders");
        }
        assert!(!registry.render().contains("topic="), "nothing is left");
        for core in &cores {
            core.begin(id(2), "orders").appended(1, 1);
            // Known already: the same series.
            core.begin(id(2), "orders").appended(1, 1);
        }
        let expected = [("orders".to_owned(), 4)];
        assert_eq!(shown(&registry, families::TOPIC_BYTES_IN), expected);
    }

    #[test]
    fn no_series_of_their_own_counts_all_topics_as_one() {
        // Proves: `metrics.topics_max` 0 is a limit like any other.
        let registry = Registry::new();
        let core = CoreTopics::new(&registry, 0);
        core.begin(id(1), "orders").appended(10, 1);
        let expected = [(OTHER.to_owned(), 10)];
        assert_eq!(shown(&registry, families::TOPIC_BYTES_IN), expected);
    }
}
