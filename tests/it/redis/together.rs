//! All or nothing: a refused request leaves no trace.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use ratekeeper::{
    clock::Clock,
    engine::{decision::Code, descriptor::Hits, rules::OnStoreFailure},
    limiter::Limiter,
    storage::redis::Config,
};

use super::{
    ask_for, connected, limiter, limiter_over,
    servers::{Cluster, Server},
    settings,
};

const RULES: &str = "
domain: d
charge: all_or_nothing
descriptors:
  - key: a
    rate_limit: {unit: hour, requests_per_unit: 40}
  - key: b
    rate_limit: {unit: hour, requests_per_unit: 60}
  - key: c
    rate_limit: {unit: hour, requests_per_unit: 25}
";
const LIMITS: [(&str, u64); 3] = [("a", 40), ("b", 60), ("c", 25)];

/// Takes `hits` of each of these; whether they passed.
async fn take(limiter: &Limiter, wanted: &[(&str, &str, u64)]) -> bool {
    let entries: Vec<[(&str, &str); 1]> = wanted
        .iter()
        .map(|(key, value, _)| [(*key, *value)])
        .collect();
    let asked: Vec<(&[(&str, &str)], Hits)> = wanted
        .iter()
        .zip(&entries)
        .map(|((_, _, hits), entries)| (&entries[..], Hits::Take(*hits)))
        .collect();
    let answer = ask_for(limiter, &asked, None, None)
        .await
        .expect("an answer");
    answer.decision.code == Code::Ok
}

/// Random requests for one to three of nine counters, many at a time, by two
/// processes. Afterwards every counter holds exactly what was admitted.
async fn leaves_no_trace(config: &Config, count: impl Fn(&str) -> u64) {
    let other = connected(config, Clock::System).await;
    let limiters = [
        Arc::new(limiter(RULES, config).await),
        Arc::new(limiter_over(RULES, other, OnStoreFailure::Error)),
    ];
    let mut admitted: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut refused = 0;
    for round in 0..30_u64 {
        let wishes: Vec<Vec<(&str, String, u64)>> = (0..16_u64)
            .map(|number| {
                let mut random = (round * 16 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mut next = |bound: u64| {
                    random = random.rotate_left(23).wrapping_mul(0xd134_2543_de82_ef95) ^ number;
                    (random >> 33) % bound
                };
                (0..=next(3))
                    .map(|_| {
                        let (key, _) = LIMITS[usize::try_from(next(3)).expect("small")];
                        (key, next(3).to_string(), next(4))
                    })
                    .collect()
            })
            .collect();
        let wanted: Vec<Vec<(&str, &str, u64)>> = wishes
            .iter()
            .map(|wish| {
                wish.iter()
                    .map(|(key, value, hits)| (*key, value.as_str(), *hits))
                    .collect()
            })
            .collect();
        let takes = wanted
            .iter()
            .enumerate()
            .map(|(number, wanted)| take(&limiters[number % 2], wanted));
        for (wanted, passed) in wanted.iter().zip(join_all(takes).await) {
            if !passed {
                refused += 1;
                continue;
            }
            for (key, value, hits) in wanted {
                *admitted
                    .entry(((*key).to_owned(), (*value).to_owned()))
                    .or_default() += hits;
            }
        }
    }
    assert!(refused > 50, "{refused} refused");
    // What was reserved in vain is given back off the reply path.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for ((key, value), admitted) in &admitted {
        let limit = LIMITS
            .iter()
            .find(|(name, _)| name == key)
            .expect("a limit")
            .1;
        assert!(*admitted <= limit, "{key}={value}: {admitted} of {limit}");
        let counted = count(&format!(",1:{key}=1:{value}@"));
        assert_eq!(counted, *admitted, "{key}={value}");
    }
    let full = admitted.values().filter(|&&hits| hits >= 20).count();
    assert!(full > 3, "the load reached the limits: {admitted:?}");
}

#[tokio::test]
async fn on_one_server() {
    let server = Server::plain();
    let config = settings(&server.address());
    leaves_no_trace(&config, |part| {
        let keys = server.command(&["KEYS", &format!("*{part}*")]);
        server
            .command(&["GET", keys.trim()])
            .trim()
            .parse()
            .unwrap_or(0)
    })
    .await;
}

#[tokio::test]
async fn across_the_slots_of_a_cluster() {
    let cluster = Cluster::start();
    let config = settings(&cluster.address());
    leaves_no_trace(&config, |part| {
        let find = |node: usize| cluster.nodes[node].command(&["KEYS", &format!("*{part}*")]);
        let key: String = cluster.primaries().into_iter().map(find).collect();
        cluster.command(&["GET", key.trim()]).parse().unwrap_or(0)
    })
    .await;
}
