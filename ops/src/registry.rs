//! Where metrics are made and rendered. Making a handle takes a lock and allocates; using one does
//! neither. So cores make their handles once, at start.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::{
    families::{self, Family, Kind},
    histogram::Histogram,
    topic_metrics::TopicRegistry,
};

const METADATA: Metadata<'static> = Metadata::new("streambus", Level::INFO, None);

/// The metrics of one node. Cheap to clone; clones are the same metrics. Not global, so that
/// several nodes in one test process keep apart.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    histograms: Mutex<BTreeMap<&'static str, Vec<Series>>>,
    topics: TopicRegistry,
}

/// One histogram with its labels as they are rendered.
struct Series {
    labels: String,
    histogram: Arc<Histogram>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// Makes an empty registry.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        for family in families::ALL {
            let (name, help) = (KeyName::from_const_str(family.name), family.help.into());
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                // Those and the figures of topics are ours, rendered beside the exporter's.
                Kind::Histogram(_) => {}
            }
        }
        let registry = Self {
            shared: Arc::new(Shared {
                recorder,
                handle,
                histograms: Mutex::default(),
                topics: TopicRegistry::default(),
            }),
        };
        registry
            .gauge(families::BUILD, &[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        registry
    }

    pub(crate) fn counter(&self, family: Family, labels: &[(&'static str, &str)]) -> Counter {
        debug_assert_eq!(family.kind, Kind::Counter);
        self.shared
            .recorder
            .register_counter(&key(family, labels), &METADATA)
    }

    pub(crate) fn gauge(&self, family: Family, labels: &[(&'static str, &str)]) -> Gauge {
        debug_assert_eq!(family.kind, Kind::Gauge);
        self.shared
            .recorder
            .register_gauge(&key(family, labels), &METADATA)
    }

    pub(crate) fn histogram(
        &self,
        family: Family,
        labels: &[(&'static str, &str)],
    ) -> Arc<Histogram> {
        let Kind::Histogram(scale) = family.kind else {
            panic!("{} is not a histogram", family.name);
        };
        let labels = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect::<Vec<_>>()
            .join(",");
        let mut histograms = self.histograms();
        let series = histograms.entry(family.name).or_default();
        if let Some(known) = series.iter().find(|known| known.labels == labels) {
            return known.histogram.clone();
        }
        let histogram = Arc::new(Histogram::new(scale));
        series.push(Series {
            labels,
            histogram: histogram.clone(),
        });
        histogram
    }

    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> String {
        let mut out = self.shared.handle.render();
        let histograms = self.histograms();
        for family in families::ALL {
            let Some(series) = histograms.get(family.name) else {
                continue;
            };
            let _ = writeln!(out, "# HELP {} {}", family.name, family.help);
            let _ = writeln!(out, "# TYPE {} histogram", family.name);
            for one in series {
                one.histogram.render(family.name, &one.labels, &mut out);
            }
            out.push('\n');
        }
        drop(histograms);
        self.shared.topics.render(&mut out);
        out
    }

    pub(crate) fn topics(&self) -> &TopicRegistry {
        &self.shared.topics
    }

    /// Lets the exporter tidy up; the ops thread calls it now and then.
    pub(crate) fn upkeep(&self) {
        self.shared.handle.run_upkeep();
    }

    fn histograms(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<Series>>> {
        // A panic while it was held can't have left a series half made.
        self.shared
            .histograms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(family: Family, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels
        .iter()
        .map(|(key, value)| Label::new(*key, (*value).to_owned()))
        .collect();
    Key::from_parts(family.name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_series_is_made_once() {
        // Proves: a core that asks again adds to its figures instead of starting a second series.
        let registry = Registry::new();
        registry
            .counter(families::MESH_HOPS, &[("core", "0")])
            .increment(2);
        registry
            .counter(families::MESH_HOPS, &[("core", "0")])
            .increment(3);
        registry
            .histogram(families::WAL_SYNC, &[("core", "0")])
            .record(1);
        registry
            .histogram(families::WAL_SYNC, &[("core", "0")])
            .record(1);
        let text = registry.render();
        assert!(
            text.contains("streambus_mesh_hops_total{core=\"0\"} 5\n"),
            "{text}"
        );
        assert!(
            text.contains("streambus_wal_sync_seconds_count{core=\"0\"} 2\n"),
            "{text}"
        );
        assert_eq!(
            text.matches("# TYPE streambus_wal_sync_seconds histogram")
                .count(),
            1
        );
    }

    #[test]
    fn two_registries_keep_apart() {
        // Proves: nodes that share a test process do not add to each other's figures.
        let (left, right) = (Registry::new(), Registry::new());
        left.counter(families::MESH_HOPS, &[]).increment(1);
        assert!(!right.render().contains("mesh_hops_total 1"));
    }
}
