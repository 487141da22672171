//! `caelum db`: look after the records where they are, without running anything.
//!
//! `migrate` brings the schema up to date, so that a release can be prepared before it is started; `status`
//! and `check` look. What is wrong is said with what to do, and makes the command fail.

use anyhow::Result;
use caelum_drivers::clock::{Clock as _, SystemClock};
use caelum_store::{Address, OpenError, Place, STREAM, Store, StoreError, StoreStatus};

use super::{backends, settle, token::audit};
use crate::{
    arguments::{Db, Looked, Resolved},
    exit::{Exit, Unreachable},
    output,
};

/// Does what was asked.
pub async fn run(command: Db) -> Result<Exit> {
    match command {
        Db::Migrate(arguments) => migrate(arguments).await,
        Db::Status(arguments) => status(arguments).await,
        Db::Check(arguments) => check(arguments).await,
        Db::NewStream(resolved) => new_stream(resolved).await,
    }
}

async fn migrate(arguments: Looked) -> Result<Exit> {
    let Looked { json, resolved } = arguments;
    let address = address_of(resolved)?;
    let before = match &address {
        // A file's schema cannot be looked at without bringing it up to date.
        Address::Sqlite(_) => None,
        Address::Postgres(_) => Some(looked_at(Store::reach(&address).await.map_err(away)?).await?),
    };
    let after = looked_at(Store::connect(&address).await.map_err(away)?).await?;
    let text = match (json, before) {
        (true, before) => {
            format!(
                "{:#}\n",
                serde_json::json!({ "place": address.to_string(), "before": before, "schema": after })
            )
        }
        (false, Some(before)) if before != after => {
            format!("{address}: the schema was {before} and is {after} now\n")
        }
        (false, _) => format!("{address}: the schema is {after}, as this version needs it\n"),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

async fn new_stream(resolved: Resolved) -> Result<Exit> {
    let address = address_of(resolved)?;
    let store = Store::connect(&address).await.map_err(away)?;
    let kept = store.fact(STREAM).await.map_err(gone)?;
    let partitions = store.restart_offsets().await.map_err(gone)?;
    store.put_fact(STREAM, String::new()).await.map_err(gone)?;
    store
        .audit(audit(SystemClock.now_ms(), "stream.restart", kept.as_deref().unwrap_or("none")))
        .await
        .map_err(gone)?;
    store.close();
    output::print(&format!(
        "{address}: {partitions} partition(s) begin anew with the stream that is named at the next start\n"
    ))?;
    Ok(Exit::Fine)
}

async fn looked_at(store: Store) -> Result<u32> {
    let health = store.health().await.map_err(gone)?;
    store.close();
    Ok(health.schema)
}

async fn status(arguments: Looked) -> Result<Exit> {
    let Looked { json, resolved } = arguments;
    let address = address_of(resolved)?;
    let store = Store::reach(&address).await.map_err(away)?;
    let status = store.status().await.map_err(gone)?;
    store.close();
    let text = match json {
        true => format!("{:#}\n", serde_json::json!(status)),
        false => shown(&status),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

async fn check(arguments: Looked) -> Result<Exit> {
    let Looked { json, resolved } = arguments;
    let address = address_of(resolved)?;
    let store = Store::reach(&address).await.map_err(away)?;
    let complaints = store.check().await.map_err(gone)?;
    store.close();
    let text = match (json, complaints.is_empty()) {
        (true, _) => {
            format!("{:#}\n", serde_json::json!({ "place": address.to_string(), "complaints": complaints }))
        }
        (false, true) => format!("{address}: nothing is wrong\n"),
        (false, false) => {
            complaints.iter().map(|complaint| format!("{}\n", output::plain(complaint))).collect()
        }
    };
    output::print(&text)?;
    Ok(if complaints.is_empty() { Exit::Fine } else { Exit::Failed })
}

/// Where the settings say that the records are. A file that is not there is not made by looking for it.
fn address_of(resolved: Resolved) -> Result<Address> {
    let (settings, data) = settle(resolved.place, resolved.overrides)?;
    let address = backends::store_address(&settings, &data)?;
    match address.file() {
        Some(file) if !file.is_file() => {
            Err(Unreachable(format!("there are no records in {}: `caelum up` makes them", file.display()))
                .into())
        }
        _ => Ok(address),
    }
}

/// A server that is away has an exit code of its own.
fn away(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Away { .. } => {
            let because =
                std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            Unreachable(format!("{error}{because}")).into()
        }
        other => other.into(),
    }
}

fn gone(error: StoreError) -> anyhow::Error {
    match error.is_transient() {
        true => Unreachable(format!("{:#}", anyhow::Error::from(error))).into(),
        false => error.into(),
    }
}

fn shown(status: &StoreStatus) -> String {
    let health = &status.health;
    let schema = match health.schema == status.known_schema {
        true => health.schema.to_string(),
        false => format!("{}, and this version knows {}", health.schema, status.known_schema),
    };
    let takes = if health.is_primary { "reads and writes" } else { "reads only" };
    let mut lines = vec![
        vec!["place".to_owned(), health.place.clone()],
        vec!["server".to_owned(), format!("{} {}; takes {takes}", health.backend, health.version)],
        vec!["schema".to_owned(), schema],
        vec!["size".to_owned(), bytes(status.bytes)],
    ];
    for replica in &health.replicas {
        let state = match (&replica.fault, replica.lag_ms) {
            (Some(fault), _) => format!("away: {fault}"),
            (None, Some(lag)) if replica.is_used => format!("{lag} ms behind; answers reads"),
            (None, Some(lag)) => format!("{lag} ms behind; too far to answer"),
            (None, None) => "how far it is behind is not known".to_owned(),
        };
        lines.push(vec!["replica".to_owned(), format!("{}: {state}", replica.place)]);
    }
    if health.reads.place == Place::Replica {
        lines.push(vec!["pages".to_owned(), "are read from a replica".to_owned()]);
    }
    let mut text = output::table(&["WHAT", "HOW IT STANDS"], &lines);
    let rows = |tables: &[caelum_store::TableStatus]| -> Vec<Vec<String>> {
        let size = |table: &caelum_store::TableStatus| match table.bytes {
            0 => String::new(),
            size => bytes(size),
        };
        tables.iter().map(|table| vec![table.name.clone(), table.rows.to_string(), size(table)]).collect()
    };
    text.push('\n');
    text.push_str(&output::table(&["TABLE", "ROWS", "SIZE"], &rows(&status.tables)));
    if !status.parts.is_empty() {
        text.push('\n');
        text.push_str(&output::table(&["PART OF ROLLUPS", "ROWS", "SIZE"], &rows(&status.parts)));
    }
    text
}

/// A size with a unit that people read.
fn bytes(count: u64) -> String {
    match count {
        0..10_240 => format!("{count} B"),
        10_240..10_485_760 => format!("{} KiB", count >> 10),
        10_485_760..10_737_418_240 => format!("{} MiB", count >> 20),
        _ => format!("{} GiB", count >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_two_digits_at_least() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(10_239), "10239 B");
        assert_eq!(bytes(10_240), "10 KiB");
        assert_eq!(bytes(11 << 30), "11 GiB");
    }
}
