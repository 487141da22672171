//! `caelum up`: every part in one process, on one machine.

use anyhow::{Result, bail};

use crate::{config::Settings, data::DataDirectory, exit::Exit};

/// Starts everything, serves until told to stop, and drains.
pub fn run(settings: Settings, data: DataDirectory) -> Result<Exit> {
    data.make()?;
    bail!("the parts of {:?} are not joined yet in {}", settings.config.cluster, data.root().display())
}
