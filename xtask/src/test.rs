//! `cargo xtask test`: everything that can fail, with one command.
//!
//! Tests that start the real binary are ordinary integration tests of the `caelum` package, so cargo builds
//! the binary for them; nothing has to be prepared but the programs named in `packages`.

use anyhow::Result;

use crate::{command, packages};

/// Installs what tests need, then runs them all. Further arguments go to `cargo test`.
pub fn run(rest: &[String]) -> Result<()> {
    packages::ensure()?;
    let mut arguments = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
    arguments.extend(rest.iter().map(String::as_str));
    command::run(&command::cargo(), &arguments)
}
