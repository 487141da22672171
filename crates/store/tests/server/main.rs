//! What happens when a PostgreSQL server goes away, comes back, is overtaken, or is not whom it says to be.

mod away;
mod failover;
mod followed;
mod secret;

use caelum_model::target::Target;
use caelum_store::Store;

/// A target to be stored, told from others by its number.
fn target(number: usize) -> Target {
    let id = caelum_model::id::TargetId::parse(&format!("t-{number}")).expect("valid");
    Target::usual(id, format!("tcp://host:{number}"), 1)
}

async fn connect(url: &str) -> Store {
    Store::connect(&url.parse().expect("an address")).await.expect("connects")
}
