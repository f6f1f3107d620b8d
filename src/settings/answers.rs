//! Settings that bear on answers, by name: for whoever has neither a command
//! line nor an environment. They are the flags of "Decisions", `_` for `-`.

use clap::{
    Args as _, FromArgMatches as _,
    error::{ContextKind, ContextValue},
};

use super::Decide;
use crate::{engine::decision::Policy, service::wire::ResponseSettings, storage::ChargeMode};

/// What bears on answers.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    /// How it is decided.
    pub(crate) policy: Policy,
    /// What happens to a request's other counters when one is over.
    pub(crate) charge_mode: ChargeMode,
    /// What goes into answers beside the decision.
    pub(crate) response: ResponseSettings,
}

/// The names that there are.
pub(crate) fn names() -> Vec<String> {
    let command = command();
    let names = command.get_arguments().map(|it| it.get_id().to_string());
    names.collect()
}

/// Reads settings, each a name and its value; those not named have their
/// defaults.
///
/// # Errors
/// A name or a value is none; says which values there are, or what it is.
pub(crate) fn read(given: &[(&str, &str)]) -> Result<Answers, String> {
    let flags = given
        .iter()
        .map(|(name, value)| format!("--{}={value}", name.replace('_', "-")));
    let matches = command()
        .try_get_matches_from(flags)
        .map_err(|error| in_a_line(&error))?;
    let decide = Decide::from_arg_matches(&matches).map_err(|error| in_a_line(&error))?;
    Ok(Answers {
        policy: decide.policy(),
        charge_mode: decide.charge_mode(),
        response: decide.response().map_err(|error| format!("{error:#}"))?,
    })
}

fn command() -> clap::Command {
    let command = clap::Command::new("settings")
        .no_binary_name(true)
        .disable_help_flag(true);
    Decide::augment_args(command).mut_args(|argument| argument.env(None::<&'static str>))
}

/// What is wrong, in a line: without the advice to ask for help, and with the
/// name of the setting for that of the flag.
fn in_a_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.split("\n\n").next().unwrap_or_default();
    let said = said.strip_prefix("error: ").unwrap_or(said);
    let mut said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) {
        let name = flag.trim_start_matches('-');
        let name = name.split([' ', '=', '[']).next().unwrap_or_default();
        said = said.replace(&format!("'{flag}'"), &name.replace('-', "_"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_the_flags() {
        let names = names();
        for name in ["shadow_mode", "limit_headers", "limit_header"] {
            assert!(names.iter().any(|it| it == name), "{names:?}");
        }
        let defaults = read(&[]).unwrap();
        assert_eq!(defaults.policy, Policy::default());
        assert!(defaults.response.headers.is_none());

        let given = [
            ("shadow_mode", "true"),
            ("stop_when_over_limit", "true"),
            ("limit_headers", "true"),
            ("limit_header", "X-Limit"),
        ];
        let answers = read(&given).unwrap();
        assert!(answers.policy.shadow_mode);
        assert_eq!(answers.charge_mode, ChargeMode::OthersStandStill);
        assert_eq!(&*answers.response.headers.unwrap().limit, "X-Limit");
    }

    #[test]
    fn what_is_wrong_is_said_in_a_line() {
        for (name, value, expected) in [
            (
                "shadow_mode",
                "maybe",
                "invalid value 'maybe' for shadow_mode [possible values: true",
            ),
            (
                "near_limit_ratio",
                "x",
                "invalid value 'x' for near_limit_ratio: ",
            ),
            ("speed", "1", "unexpected argument speed"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
        let both = [("limit_headers", "true"), ("reset_header", "a b")];
        assert!(read(&both).unwrap_err().contains("not a header name"));
    }
}
