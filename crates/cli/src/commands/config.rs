//! `caelum config`: look at settings without starting anything.

use anyhow::Result;

use super::settle;
use crate::{arguments::Config, config::reference, exit::Exit, output};

/// Prints what was asked for. Faults are an error like any other, with a code of their own.
pub fn run(command: Config) -> Result<Exit> {
    let text = match command {
        Config::Check(resolved) => {
            let (settings, _) = settle(resolved.place, resolved.overrides)?;
            let notes: String = settings.notes.iter().map(|note| format!("note: {note}\n")).collect();
            format!("{notes}the settings are good\n")
        }
        Config::Print { origin, resolved } => {
            let (settings, _) = settle(resolved.place, resolved.overrides)?;
            reference::print(&settings, origin)
        }
        Config::Example => reference::example(),
        Config::Reference => reference::document(),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}
