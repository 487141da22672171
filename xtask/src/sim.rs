//! `cargo xtask sim`: clusters too large for the tests, in virtual time, as a table.

use anyhow::Result;

use crate::command;

/// Builds the simulator optimised and hands it the arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    let mut run =
        vec!["run", "--release", "--locked", "--quiet", "-p", "caelum-testkit", "--bin", "simulate", "--"];
    run.extend(arguments.iter().map(String::as_str));
    command::run(&command::cargo(), &run)
}
