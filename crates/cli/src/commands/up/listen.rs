//! Where Caelum is reached, and what is said when that place is taken.

use std::net::SocketAddr;

use anyhow::{Result, anyhow};
use caelum_drivers::ports::{self, BindError, Listener};

use crate::{
    config::{Origin, Settings, keys},
    exit::Unreachable,
};

/// Listens on every address. Addresses that nobody asked for are left out where the machine has no such
/// family; a port that is taken names its holder.
pub(in crate::commands) fn listen(settings: &Settings) -> Result<Vec<Listener>> {
    let is_asked_for = settings.origins[keys::position("server.listen")] != Origin::Default;
    let mut listeners = Vec::new();
    for address in &settings.config.server.listen {
        match ports::bind(*address) {
            Ok(listener) => listeners.push(listener),
            Err(BindError::Busy { addr, holder }) => {
                let holder = match holder {
                    Some(holder) => format!("{} (process {})", holder.program, holder.pid),
                    None => "a process that this user may not look into".to_owned(),
                };
                return Err(Unreachable(format!(
                    "port {} on {} is taken by {holder}: stop that process, or choose another port with \
                     --listen {}:PORT",
                    addr.port(),
                    addr.ip(),
                    bracket(addr)
                ))
                .into());
            }
            Err(error) if !is_asked_for && address.is_ipv6() => {
                tracing::info!(code = "up.no_ipv6", %error, "not listening on IPv6");
            }
            Err(error) => return Err(Unreachable(error.to_string()).into()),
        }
    }
    if listeners.is_empty() {
        return Err(anyhow!("there is no address to listen on: set server.listen"));
    }
    Ok(listeners)
}

fn bracket(address: SocketAddr) -> String {
    if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() }
}
