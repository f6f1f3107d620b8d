//! Statistics as lines for a statsd or DogStatsD daemon, sent now and then.
//!
//! Counters go as what has been added since the last time that was sent:
//! while the daemon is away nothing is lost over TCP. Of durations each kind of call
//! has a line for each bucket that was hit, with a sample rate that stands for
//! their number.

use std::{collections::HashMap, fmt::Write as _, io, time::Duration};

use regex::Regex;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UdpSocket},
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use super::reference::{Stat, Value};

/// Where to send statistics, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose lines.
    pub dialect: Dialect,
    /// Over TCP, not UDP.
    pub tcp: bool,
    /// `host:port`.
    pub address: String,
    /// On every statistic.
    pub tags: Vec<(String, String)>,
    /// How often.
    pub every: Duration,
}

/// Whose lines.
#[derive(Clone, Debug)]
pub enum Dialect {
    /// Tags are part of the name.
    Statsd,
    /// Tags are tags, and names may be rewritten first.
    DogStatsd(Vec<Mogrifier>),
}

/// Rewrites a name, and takes tags out of it.
#[derive(Clone, Debug)]
pub struct Mogrifier {
    /// Which names.
    pub pattern: Regex,
    /// The new name, with `$1` for what the pattern has found.
    pub name: String,
    /// Tags and their values, the same.
    pub tags: Vec<(String, String)>,
}

/// Longer packets may be lost on the way.
const MOST_PACKET_BYTES: usize = 1_432;
/// A daemon that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(3);

/// What has been sent.
#[derive(Debug, Default)]
struct Sent {
    counters: HashMap<String, u64>,
    timers: HashMap<String, Vec<u64>>,
}

enum Connection {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// Sends what `collect` says, until `closing` turns true, and then once more.
pub async fn run(
    config: Config,
    collect: impl Fn() -> Vec<Stat> + Clone + Send + 'static,
    mut closing: watch::Receiver<bool>,
) {
    let mut tick = interval(config.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let mut sent = Sent::default();
    let mut connection = None;
    let mut is_failing = false;
    loop {
        let is_last = tokio::select! {
            _ = tick.tick() => false,
            seen = closing.wait_for(|closing| *closing) => { drop(seen); true }
        };
        let collected = tokio::task::spawn_blocking(collect.clone()).await;
        let stats = collected.unwrap_or_default();
        let (lines, now) = sent.lines(&stats, &config);
        match timeout(PATIENCE, send(&config, &mut connection, &lines)).await {
            Ok(Ok(())) => {
                sent = now;
                is_failing = false;
            }
            failed => {
                connection = None;
                let error = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "it takes too long".to_owned(),
                };
                if !is_failing {
                    tracing::warn!(address = config.address, error, "cannot send statistics");
                }
                is_failing = true;
            }
        }
        if is_last {
            return;
        }
    }
}

async fn send(
    config: &Config,
    connection: &mut Option<Connection>,
    lines: &[String],
) -> io::Result<()> {
    if connection.as_ref().is_some_and(Connection::has_ended) {
        *connection = None;
    }
    let connected = match connection {
        Some(connected) => connected,
        None => connection.insert(connect(config).await?),
    };
    for packet in packets(lines) {
        match connected {
            Connection::Tcp(stream) => stream.write_all(packet.as_bytes()).await?,
            Connection::Udp(socket) => {
                socket.send(packet.as_bytes()).await?;
            }
        }
    }
    Ok(())
}

async fn connect(config: &Config) -> io::Result<Connection> {
    if config.tcp {
        return Ok(Connection::Tcp(TcpStream::connect(&config.address).await?));
    }
    let mut addresses = tokio::net::lookup_host(&config.address).await?;
    let address = addresses
        .next()
        .ok_or_else(|| io::Error::other("the name has no address"))?;
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(Connection::Udp(socket))
}

/// Lines together, as many as fit.
fn packets(lines: &[String]) -> Vec<String> {
    let mut packets: Vec<String> = vec![];
    for line in lines {
        match packets.last_mut() {
            Some(packet) if packet.len() + line.len() < MOST_PACKET_BYTES => packet.push_str(line),
            _ => packets.push(line.clone()),
        }
    }
    packets
}

// === impl Connection ===

impl Connection {
    /// The daemon has closed it: the first write would go well all the same,
    /// and to nobody. What a daemon says is left to itself.
    fn has_ended(&self) -> bool {
        match self {
            Self::Tcp(stream) => match stream.try_read(&mut [0; 64]) {
                Ok(read) => read == 0,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            },
            Self::Udp(_) => false,
        }
    }
}

// === impl Sent ===

impl Sent {
    /// The lines that are to be sent next, and what has been sent then.
    fn lines(&self, stats: &[Stat], config: &Config) -> (Vec<String>, Self) {
        let mut lines = vec![];
        let mut now = Self::default();
        for stat in stats {
            let mut line = |value: &str| lines.push(config.line(&stat.name, value));
            match &stat.value {
                Value::Counter(count) => {
                    let before = self.counters.get(&stat.name).copied().unwrap_or(0);
                    if *count > before {
                        line(&format!("{}|c", count - before));
                    }
                    now.counters.insert(stat.name.clone(), *count);
                }
                Value::Gauge(level) => line(&format!("{level}|g")),
                Value::Timer(times) => {
                    let before = self.timers.get(&stat.name);
                    for (place, count) in times.counts.iter().enumerate() {
                        let before = before.and_then(|it| it.get(place)).copied().unwrap_or(0);
                        let more = count.saturating_sub(before);
                        if more > 0 {
                            line(&timer(times.bounds, place, more));
                        }
                    }
                    now.timers.insert(stat.name.clone(), times.counts.clone());
                }
            }
        }
        (lines, now)
    }
}

/// The middle of a bucket in whole milliseconds, so many times.
fn timer(bounds: &[u64], place: usize, times: u64) -> String {
    let below = place.checked_sub(1).and_then(|place| bounds.get(place));
    let below = below.copied().unwrap_or(0);
    let above = bounds.get(place).copied().unwrap_or(below);
    let millis = u64::midpoint(below, above) / 1_000;
    if times == 1 {
        return format!("{millis}|ms");
    }
    let rate = 1.0 / super::families::float(times);
    format!("{millis}|ms|@{rate}")
}

// === impl Config ===

impl Config {
    fn line(&self, name: &str, value: &str) -> String {
        let mut line = String::new();
        match &self.dialect {
            Dialect::Statsd => {
                line.push_str(name);
                let mut tags: Vec<_> = self.tags.iter().collect();
                tags.sort_unstable();
                for (key, value) in tags {
                    let _ = write!(line, ".__{}={}", clean(key), clean(value));
                }
                let _ = write!(line, ":{value}");
            }
            Dialect::DogStatsd(mogrifiers) => {
                let mut found = mogrifiers.iter().filter_map(|it| it.rewrite(name));
                let (name, tags) = found.next().unwrap_or_else(|| (name.to_owned(), vec![]));
                let _ = write!(line, "{}:{value}", clean(&name));
                for (place, (key, value)) in self.tags.iter().chain(&tags).enumerate() {
                    let before = if place == 0 { "|#" } else { "," };
                    let _ = write!(line, "{before}{}:{}", clean(key), clean(value));
                }
            }
        }
        line.push('\n');
        line
    }
}

/// Text that cannot end a part of a line.
fn clean(text: &str) -> String {
    let bad = |c: char| matches!(c, ':' | '|' | ',' | '#' | '@') || c.is_control();
    text.replace(bad, "_")
}

// === impl Mogrifier ===

impl Mogrifier {
    fn rewrite(&self, name: &str) -> Option<(String, Vec<(String, String)>)> {
        let found = self.pattern.captures(name)?;
        let text = |template: &str| {
            let mut text = String::new();
            found.expand(template, &mut text);
            text
        };
        let tags = self.tags.iter();
        let tags = tags.map(|(key, value)| (key.clone(), text(value)));
        Some((text(&self.name), tags.collect()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;
    use crate::counts::{Histogram, LATENCIES};

    fn config(dialect: Dialect) -> Config {
        Config {
            dialect,
            tcp: true,
            address: String::new(),
            tags: vec![("env".into(), "prod".into()), ("az".into(), "a|1".into())],
            every: Duration::from_secs(10),
        }
    }

    #[test]
    fn counters_go_as_what_was_added() {
        let config = config(Dialect::Statsd);
        let sent = Sent::default();
        let stats = |hits| [Stat::counter("a.total_hits", hits), Stat::gauge("g", -1)];
        let (lines, now) = sent.lines(&stats(4), &config);
        assert_eq!(
            lines,
            [
                "a.total_hits.__az=a_1.__env=prod:4|c\n",
                "g.__az=a_1.__env=prod:-1|g\n"
            ]
        );
        // What could not be sent is in the next lines.
        let (lines, _) = sent.lines(&stats(6), &config);
        assert!(lines[0].ends_with(":6|c\n"), "{lines:?}");
        let (lines, _) = now.lines(&stats(6), &config);
        assert!(lines[0].ends_with(":2|c\n"), "{lines:?}");
        let (lines, _) = now.lines(&stats(4), &config);
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    #[tokio::test]
    async fn a_daemon_that_was_started_anew_gets_everything() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(Dialect::Statsd);
        config.address = listener.local_addr().unwrap().to_string();
        let mut connection = None;
        for line in ["a:1|c\n", "a:2|c\n"] {
            send(&config, &mut connection, &[line.to_owned()])
                .await
                .unwrap();
            let (mut daemon, _) = listener.accept().await.unwrap();
            let mut read = [0; 6];
            daemon.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, line.as_bytes());
            drop(daemon);
            // Until that is known here.
            let Some(Connection::Tcp(stream)) = &connection else {
                panic!("over TCP");
            };
            stream.readable().await.unwrap();
        }
    }

    #[test]
    fn durations_go_by_bucket() {
        let mut config = config(Dialect::Statsd);
        config.tags.clear();
        let times = Histogram::new(LATENCIES);
        times.record(2_000, 4);
        times.record(700_000, 1);
        let stat = |times: &Histogram<18>| {
            [Stat {
                name: "t".into(),
                value: Value::Timer(times.read()),
            }]
        };
        let (lines, now) = Sent::default().lines(&stat(&times), &config);
        assert_eq!(lines, ["t:1|ms|@0.25\n", "t:750|ms\n"]);
        times.record(2_000, 1);
        let (lines, _) = now.lines(&stat(&times), &config);
        assert_eq!(lines, ["t:1|ms\n"]);
    }

    #[test]
    fn names_are_rewritten_for_dogstatsd() {
        let mogrifier = |pattern: &str, name: &str, tags: &[(&str, &str)]| Mogrifier {
            pattern: Regex::new(pattern).unwrap(),
            name: name.into(),
            tags: tags
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
        };
        let mut config = config(Dialect::DogStatsd(vec![
            mogrifier(
                r"^ratelimit\.service\.rate_limit\.([^.]+)\.(.*)\.([^.]+)$",
                "ratelimit.service.rate_limit.$3",
                &[("domain", "$1"), ("descriptor", "$2")],
            ),
            mogrifier("hits", "never", &[]),
        ]));
        config.tags.truncate(1);
        let name = "ratelimit.service.rate_limit.shop.user.total_hits";
        assert_eq!(
            config.line(name, "3|c"),
            "ratelimit.service.rate_limit.total_hits:3|c|#env:prod,domain:shop,descriptor:user\n"
        );
        assert_eq!(config.line("other", "1|g"), "other:1|g|#env:prod\n");
    }

    #[test]
    fn packets_are_not_too_long() {
        let lines = vec!["x".repeat(700) + "\n"; 5];
        let sizes: Vec<usize> = packets(&lines).iter().map(String::len).collect();
        assert_eq!(sizes, [1_402, 1_402, 701]);
    }
}
