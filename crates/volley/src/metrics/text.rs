//! The metrics' names and values, in Prometheus' text format 0.0.4.

use std::{
    fmt::{Display, Write},
    time::{Duration, Instant},
};

use io_runtime::{DeviceStatus, Histogram};

use crate::uapi::Status;

/// Turns readings of the monotonic clock into time since the Unix epoch.
pub(crate) trait Clock: Clone + Send + Sync + 'static {
    /// The wall-clock time of `instant`, where `now` is the present.
    fn since_epoch(&self, instant: Instant, now: Instant) -> Duration;
}

/// Everything that a scraper gets.
pub(super) fn metrics(name: &str, status: &DeviceStatus, clock: &impl Clock) -> String {
    let mut page =
        Page { text: String::with_capacity(8_192 + 512 * status.peers.len()), interface: name.to_owned() };
    peers(&mut page, status, clock);
    counters(&mut page, status);
    page.histogram("send_batch_datagrams", "Datagrams per successful UDP send.", &status.io.send_batches);
    page.histogram("receive_batch_datagrams", "Datagrams per received UDP buffer.", &status.io.recv_batches);
    features(&mut page, status);
    page.text
}

fn peers(page: &mut Page, status: &DeviceStatus, clock: &impl Clock) {
    page.head("peers", "gauge", "Configured peers.");
    page.value("peers", &[], status.peers.len());
    let keys: Vec<_> = status.peers.iter().map(|peer| (peer.public_key.to_base64(), peer)).collect();
    page.head("peer_received_bytes_total", "counter", "UDP payload authenticated from a peer.");
    for (key, peer) in &keys {
        page.value("peer_received_bytes_total", &[("public_key", key)], peer.rx_bytes);
    }
    page.head("peer_sent_bytes_total", "counter", "UDP payload sent to a peer.");
    for (key, peer) in &keys {
        page.value("peer_sent_bytes_total", &[("public_key", key)], peer.tx_bytes);
    }
    page.head("peer_last_handshake_seconds", "gauge", "Unix time of a peer's newest session, 0 for none.");
    for (key, peer) in &keys {
        let time = peer.last_handshake.map_or(Duration::ZERO, |at| clock.since_epoch(at, status.now));
        page.value("peer_last_handshake_seconds", &[("public_key", key)], time.as_secs_f64());
    }
}

fn counters(page: &mut Page, status: &DeviceStatus) {
    page.head("drops_total", "counter", "Packets lost, by the part that lost them and the reason.");
    for (reason, count) in status.core.drops() {
        page.value("drops_total", &[("part", "core"), ("reason", reason)], count);
    }
    for (reason, count) in status.io.drops.iter() {
        page.value("drops_total", &[("part", "io"), ("reason", reason)], count);
    }
    let traffic =
        [("core", status.core.traffic().collect::<Vec<_>>()), ("io", status.io.traffic.iter().collect())];
    for (part, counters) in traffic {
        for (counter, count) in counters {
            let metric = format!("{part}_{counter}_total");
            page.head(&metric, "counter", "See the documentation of the counter of this name.");
            page.value(&metric, &[], count);
        }
    }
}

fn features(page: &mut Page, status: &DeviceStatus) {
    page.head("feature", "gauge", "1 if a fast path is on; why it is off is in `state`.");
    for feature in Status::of(status).features {
        let switch = feature.state == "on" || feature.state.starts_with("off");
        if switch {
            let labels = [("name", feature.name.as_str()), ("state", &feature.state)];
            page.value("feature", &labels, u8::from(feature.state == "on"));
        }
    }
    page.head("mtu_bytes", "gauge", "The inner MTU.");
    page.value("mtu_bytes", &[], status.mtu);
}

struct Page {
    text: String,
    interface: String,
}

impl Page {
    fn head(&mut self, metric: &str, kind: &str, help: &str) {
        // Writing to a `String` cannot fail, here and below.
        let _ = writeln!(self.text, "# HELP volley_{metric} {help}\n# TYPE volley_{metric} {kind}");
    }

    fn value(&mut self, metric: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "volley_{metric}{{interface=\"{}\"", escape(&self.interface));
        for (name, text) in labels {
            let _ = write!(self.text, ",{name}=\"{}\"", escape(text));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn histogram(&mut self, metric: &str, help: &str, histogram: &Histogram) {
        self.head(metric, "histogram", help);
        let bucket = format!("{metric}_bucket");
        let mut below = 0;
        let mut buckets = histogram.buckets().peekable();
        while let Some((size, count)) = buckets.next() {
            below += count;
            // The last bucket also holds what is larger.
            let bound = if buckets.peek().is_some() { size.to_string() } else { "+Inf".to_owned() };
            self.value(&bucket, &[("le", &bound)], below);
        }
        self.value(&format!("{metric}_sum"), &[], histogram.sum());
        self.value(&format!("{metric}_count"), &[], below);
    }
}

/// Label values escape three characters.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative_and_end_at_infinity() {
        let mut histogram = Histogram::default();
        for size in [1, 2, 64, 1_000] {
            histogram.record(size);
        }
        let mut page = Page { text: String::new(), interface: "a\"b".into() };
        page.histogram("x", "Help.", &histogram);
        assert!(page.text.starts_with("# HELP volley_x Help.\n# TYPE volley_x histogram\n"), "{}", page.text);
        for line in [
            "volley_x_bucket{interface=\"a\\\"b\",le=\"2\"} 2\n",
            "volley_x_bucket{interface=\"a\\\"b\",le=\"64\"} 3\n",
            "volley_x_bucket{interface=\"a\\\"b\",le=\"+Inf\"} 4\n",
            "volley_x_sum{interface=\"a\\\"b\"} 1067\n",
            "volley_x_count{interface=\"a\\\"b\"} 4\n",
        ] {
            assert!(page.text.contains(line), "{line} is not in:\n{}", page.text);
        }
    }
}
