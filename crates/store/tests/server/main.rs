//! What happens when a PostgreSQL server goes away, comes back, is overtaken, or is not whom it says to be.

mod away;
mod failover;
mod followed;
mod secret;

use caelum_model::target::{Families, Target, TargetOrigin};
use caelum_store::Store;

/// A target to be stored, told from others by its number.
fn target(number: usize) -> Target {
    Target {
        target_id: caelum_model::id::TargetId::parse(&format!("t-{number}")).expect("valid"),
        url: format!("tcp://host:{number}"),
        name: format!("t-{number}"),
        interval_s: 10,
        timeout_ms: 5000,
        throughput_url: None,
        families: Families::Any,
        origin: TargetOrigin::Api,
        enabled: true,
        created_at_ms: 1,
    }
}

async fn connect(url: &str) -> Store {
    Store::connect(&url.parse().expect("an address")).await.expect("connects")
}
