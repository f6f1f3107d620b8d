//! Metrics as Prometheus reads them: families of samples with labels, and
//! their text.

use std::collections::BTreeMap;

use prometheus::{
    TextEncoder,
    core::Collector as _,
    process_collector::ProcessCollector,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::counts::Distribution;

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// What the text is.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Families in the making; samples of one name belong together, whenever they
/// come.
#[derive(Debug, Default)]
pub struct Families(BTreeMap<String, MetricFamily>);

// === impl Families ===

impl Families {
    /// Adds a counter's sample.
    pub fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, metric);
    }

    /// Adds a gauge's sample.
    pub fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, metric);
    }

    /// Adds a histogram's samples; a value of `one` in `read` is told as 1.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_>,
        read: &Distribution,
        one: f64,
    ) {
        let mut cumulative = 0;
        let bounds = read.bounds.iter().zip(&read.counts);
        let buckets = bounds.map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(float(*bound) / one);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(read.count());
        histogram.set_sample_sum(float(read.sum) / one);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, metric);
    }

    /// Adds what is known of this process: memory, processor time, files.
    pub fn process(&mut self) {
        for family in ProcessCollector::for_self().collect() {
            self.0.insert(family.name().to_owned(), family);
        }
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, metric: Metric) {
        if !self.0.contains_key(name) {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            self.0.insert(name.to_owned(), family);
        }
        if let Some(family) = self.0.get_mut(name)
            && family.get_field_type() == kind
        {
            family.mut_metric().push(metric);
        }
    }

    /// The text, sorted by name.
    #[must_use]
    pub fn to_text(self) -> String {
        let families: Vec<MetricFamily> = self.0.into_values().collect();
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }
}

fn labelled(labels: Labels<'_>) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}

/// The nearest float: metrics know nothing else.
#[allow(
    clippy::cast_precision_loss,
    reason = "rounding beyond 2⁵³ is accepted"
)]
#[must_use]
pub fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Histogram as Counts;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut families = Families::default();
        families.counter("b_total", "Things.", &[("of", "a\"b\\c\nd")], 3.0);
        families.counter("b_total", "Things.", &[("of", "x")], 4.0);
        families.gauge("a", "A level.", &[], 0.5);
        let counts = Counts::new(&[1_000, 2_000]);
        counts.record(1_500, 2);
        counts.record(9_000, 1);
        families.histogram("c_seconds", "Time.", &[], &counts.read(), 1e3);
        let expected = "\
# HELP a A level.
# TYPE a gauge
a 0.5
# HELP b_total Things.
# TYPE b_total counter
b_total{of=\"a\\\"b\\\\c\\nd\"} 3
b_total{of=\"x\"} 4
# HELP c_seconds Time.
# TYPE c_seconds histogram
c_seconds_bucket{le=\"1\"} 0
c_seconds_bucket{le=\"2\"} 2
c_seconds_bucket{le=\"+Inf\"} 3
c_seconds_sum 12
c_seconds_count 3
";
        assert_eq!(families.to_text(), expected);
    }

    #[test]
    fn a_name_has_one_kind() {
        let mut families = Families::default();
        families.gauge("a", "A level.", &[], 0.5);
        families.counter("a", "Things.", &[], 1.0);
        assert_eq!(
            families.to_text(),
            "# HELP a A level.\n# TYPE a gauge\na 0.5\n"
        );
    }
}
