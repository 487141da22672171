//! Several servers on real PostgreSQL, NATS and Redis, behind the real HAProxy and nginx: they serve the same,
//! admit alike, and any of them may die.

#[path = "fleet/balanced.rs"]
mod balanced;
#[path = "fleet/mailbox.rs"]
mod mailbox;
#[path = "fleet/rotation.rs"]
mod rotation;
#[path = "fleet/shared.rs"]
mod shared;
#[path = "fleet/told.rs"]
mod told;
#[path = "fleet/trusted.rs"]
mod trusted;

use caelum_testkit::{fleet::Fleet, postgres};

const BINARY: &str = env!("CARGO_BIN_EXE_caelum");

/// Servers that have seen each other.
async fn fleet(many: usize, variables: &[(&str, &str)]) -> Fleet {
    let records = postgres::Plan::new().start().expect("starts");
    let fleet = Fleet::start(BINARY, records, many, variables).expect("starts");
    fleet.see_each_other(many).await.expect("they can be asked");
    fleet
}
