//! `syncline completions` and `syncline man`: what a package installs beside the program, made from the command line itself.

use std::io::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;

/// Prints the completions of a shell.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    // Into memory first: the library ends the process with a panic when the reader closes the pipe.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "syncline", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

/// Writes `syncline.1`, `syncline-check.1` and so on into a folder.
pub(crate) fn pages(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), folder).map_err(|error| {
        Failure::Other(format!("the manual's pages cannot be written into {}: {error}", folder.display()))
    })
}
