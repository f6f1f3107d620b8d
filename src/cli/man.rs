//! `ratekeeper man`: manual pages, from the command line's own help.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

/// Prints the manual page, or writes those of all commands into a folder.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ratekeeper man | man -l -
  ratekeeper man --out /usr/local/share/man/man1")]
pub struct Man {
    /// A folder for ratekeeper.1, ratekeeper-serve.1 and the others; it is made if there is none
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Writes the page of `command` to `out`, or all pages into the folder.
///
/// # Errors
/// Those of `out`, or of the folder.
pub fn run(man: &Man, command: clap::Command, out: &mut impl Write) -> io::Result<()> {
    let mut command = with_short_choices(command.disable_help_subcommand(true));
    command.build();
    let Some(folder) = &man.out else {
        return page(command).render(out);
    };
    fs::create_dir_all(folder)?;
    for command in command.get_subcommands().cloned() {
        page(command).generate_to(folder)?;
    }
    page(command).generate_to(folder)?;
    Ok(())
}

fn page(command: clap::Command) -> clap_mangen::Man {
    let version = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command)
        .source(version)
        .manual("Rate limits")
}

/// Yes and no have twelve spellings, which nobody has to read at each flag.
fn with_short_choices(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let is_boolean = argument
            .get_possible_values()
            .iter()
            .any(|value| value.get_name() == "TRUE");
        argument.hide_possible_values(is_boolean)
    });
    command.mut_subcommands(with_short_choices)
}
