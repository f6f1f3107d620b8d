//! A response's resources → rules in force, or what is wrong with them.

use std::sync::Arc;

use prost::Message as _;
use prost_types::Any;

use super::Subscription;
use crate::{config, proto::ratelimit::config::ratelimit::v3::RateLimitConfig, rulebook::Rulebook};

/// What is asked for.
pub(super) const TYPE_URL: &str =
    "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig";

/// Bytes of mistakes that a server is told.
const MAX_TOLD_BYTES: usize = 256 << 10;

/// What became of a response; with what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// In force.
    Adopted,
    /// No rules.
    Refused(String),
    /// Not even resources.
    Undecodable(String),
}

// === impl Subscription: rules ===

impl Subscription {
    /// Puts `resources` in force, if they are good. Many take their time: not
    /// that of the event loop.
    pub(super) async fn apply(&self, resources: Vec<Any>) -> Outcome {
        let rulebook = Arc::clone(&self.rulebook);
        let options = self.config.compile;
        let applied =
            tokio::task::spawn_blocking(move || apply(&resources, &options, &rulebook)).await;
        let outcome = applied.unwrap_or_else(|error| Outcome::Refused(error.to_string()));
        self.note(|figures| match &outcome {
            Outcome::Adopted => figures.accepted += 1,
            Outcome::Refused(_) => figures.refused += 1,
            Outcome::Undecodable(_) => figures.undecodable += 1,
        });
        // As in the reference: what is not decoded is no configuration.
        if !matches!(outcome, Outcome::Undecodable(_)) {
            self.heard.send_replace(true);
        }
        outcome
    }
}

fn apply(resources: &[Any], options: &config::Options, rulebook: &Rulebook) -> Outcome {
    let configs = match decode(resources) {
        Ok(configs) => configs,
        Err(trouble) => {
            tracing::error!("Error decoding new configuration: {trouble}");
            return Outcome::Undecodable(trouble);
        }
    };
    match config::compile_messages(configs, options) {
        Ok(rules) => {
            rulebook.adopt(rules);
            Outcome::Adopted
        }
        Err(problems) => {
            let trouble = problems.one_line_each(options.compat, MAX_TOLD_BYTES);
            rulebook.refuse(&trouble);
            Outcome::Refused(trouble)
        }
    }
}

/// A decoder goes no deeper than a hundred messages.
fn decode(resources: &[Any]) -> Result<Vec<RateLimitConfig>, String> {
    let mut configs = Vec::with_capacity(resources.len());
    for (number, resource) in resources.iter().enumerate() {
        let number = number + 1;
        if resource.type_url != TYPE_URL {
            let found = &resource.type_url;
            return Err(format!(
                "resource {number} is no RateLimitConfig: {found:?}"
            ));
        }
        let config = RateLimitConfig::decode(&*resource.value)
            .map_err(|error| format!("cannot decode resource {number}: {error}"))?;
        configs.push(config);
    }
    Ok(configs)
}
