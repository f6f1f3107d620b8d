//! Flags about rules that change, and about the time before there are any.

use std::time::Duration;

use clap::{ArgAction, Args};

use super::{boolean, duration};
use crate::reload::Config;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "When rules change")]
pub(super) struct Reload {
    /// How often to look for changed files; they count once two looks see the
    /// same. 0 never looks
    #[arg(
        long,
        env = "RATEKEEPER_RULES_POLL",
        value_name = "TIME",
        default_value = "500ms",
        value_parser = duration
    )]
    rules_poll: Duration,
    /// A folder that has lost all of its files leaves no rules: everything
    /// passes. Otherwise those loaded before stay [default: false; true in
    /// compat mode]
    #[arg(long, env = "RATEKEEPER_RULES_MAY_VANISH", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    rules_may_vanish: Option<bool>,
    /// Serve before there are rules: before a management server has sent the first ones, and
    /// where files are not right or not there. Calls are answered with an error until then
    #[arg(long, env = "FORCE_START_WITHOUT_INITIAL_CONFIG", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    start_without_rules: bool,
    /// Healthy only while there is at least one domain
    #[arg(long, env = "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    healthy_with_rules: bool,
}

// === impl Reload ===

impl Reload {
    pub(super) fn config(&self, compat: bool) -> Config {
        Config {
            poll: self.rules_poll,
            may_vanish: self.rules_may_vanish.unwrap_or(compat),
        }
    }

    pub(super) fn starts_without_rules(&self) -> bool {
        self.start_without_rules
    }

    pub(super) fn needs_domain(&self) -> bool {
        self.healthy_with_rules
    }
}
