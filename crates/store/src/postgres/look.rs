//! Looking at the database itself: whether it answers, how large it is, and what is wrong with it.

use super::{
    Postgres, migrate,
    parts::listed,
    session::{Session, unsigned},
};
use crate::{ReadsFrom, StoreError, StoreHealth, StoreStatus, TableStatus};

/// The oldest server that is relied on, as `server_version_num` counts.
const OLDEST_VERSION: i32 = 130_000;
/// Settings that let a server lose what it has confirmed, the value that does not, and what the other means.
const SAFE_SETTINGS: [(&str, &str); 3] = [
    ("fsync", "a crash of the host can leave the whole database unreadable"),
    ("full_page_writes", "a crash of the host can leave pages half written"),
    ("synchronous_commit", "a crash of the host loses the last moments of what was confirmed"),
];
/// Tables that every schema of ours has.
const TABLES: [&str; 25] = [
    "aggregators",
    "alerts",
    "audit",
    "coordination",
    "dead_letters",
    "diagnoses",
    "enrolments",
    "join_tokens",
    "meta",
    "node_points",
    "node_settings",
    "node_tiers",
    "nodes",
    "notices",
    "packages",
    "pairs",
    "partitions",
    "revisions",
    "rollups",
    "seen_ids",
    "seen_ranges",
    "settings",
    "stale_tiers",
    "targets",
    "users",
];

impl Postgres {
    /// Looks whether the server answers, and how it stands.
    pub async fn health(&self) -> Result<StoreHealth, StoreError> {
        let session = self.session("look at the database").await?;
        let (schema, version, number, is_primary) = basics(&session).await?;
        session.done();
        let replicas = self.replicas.health(&self.primary).await;
        Ok(StoreHealth {
            backend: "postgres",
            place: self.place.clone(),
            version,
            is_too_old: number < OLDEST_VERSION,
            schema,
            is_primary,
            reads: match replicas.iter().find(|replica| replica.is_used) {
                Some(replica) => {
                    let last = self.reads();
                    ReadsFrom {
                        place: crate::Place::Replica,
                        lag_ms: replica.lag_ms,
                        as_of_ms: last.as_of_ms,
                    }
                }
                None => ReadsFrom::default(),
            },
            replicas,
        })
    }

    /// How large the database is, and what lies where.
    pub async fn status(&self) -> Result<StoreStatus, StoreError> {
        let health = self.health().await?;
        let session = self.session("measure the database").await?;
        let size = session.row("select pg_database_size(current_database())", &[]).await?;
        let bytes = size.map_or(Ok(0), |row| unsigned(session.operation, &row, 0))?;
        let rows = session
            .rows(
                "select relname::text, greatest(reltuples, 0)::bigint, pg_total_relation_size(oid),
                    pg_get_expr(relpartbound, oid) is not null
                 from pg_class where relnamespace = current_schema()::regnamespace and relkind = 'r'
                 order by relname",
                &[],
            )
            .await?;
        let (mut tables, mut parts) = (Vec::new(), Vec::new());
        for row in &rows {
            let table = TableStatus {
                name: session.get(row, 0)?,
                rows: unsigned(session.operation, row, 1)?,
                bytes: unsigned(session.operation, row, 2)?,
            };
            if session.get::<bool>(row, 3)? { parts.push(table) } else { tables.push(table) }
        }
        Ok(StoreStatus { health, known_schema: migrate::known(), bytes, tables, parts })
    }

    /// What is wrong with the database or dangerous about its settings; empty where all is well.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        let session = self.session("check the database").await?;
        let mut complaints = Vec::new();
        let (schema, version, number, is_primary) = basics(&session).await?;
        if number < OLDEST_VERSION {
            complaints.push(format!("the server is PostgreSQL {version}; 13 or newer is needed"));
        }
        if !is_primary {
            complaints.push("the server takes no writes: it is a replica, or set to read-only".to_owned());
        }
        if schema < migrate::known() {
            let known = migrate::known();
            complaints.push(format!(
                "the schema is {schema} and this version needs {known}: run `caelum db migrate`"
            ));
            if schema == 0 {
                return Ok(complaints);
            }
        }
        settings(&session, &mut complaints).await?;
        steps(&session, &mut complaints).await?;
        objects(&session, &mut complaints).await?;
        documents(&session, &mut complaints).await?;
        Ok(complaints)
    }
}

async fn basics(session: &Session) -> Result<(u32, String, i32, bool), StoreError> {
    let schema = super::schema_version(session.client())
        .await
        .map_err(|error| super::faults::of(session.operation, error))?;
    let row = session
        .row(
            "select current_setting('server_version'), current_setting('server_version_num')::integer,
                not pg_is_in_recovery() and current_setting('default_transaction_read_only') = 'off'",
            &[],
        )
        .await?;
    let Some(row) = row else { return Ok((schema, String::new(), 0, false)) };
    let version: String = session.get(&row, 0)?;
    let number = version.split_whitespace().next().unwrap_or_default().to_owned();
    Ok((schema, number, session.get(&row, 1)?, session.get(&row, 2)?))
}

async fn settings(session: &Session, complaints: &mut Vec<String>) -> Result<(), StoreError> {
    for (name, danger) in SAFE_SETTINGS {
        let row = session.row("select current_setting($1)", &[&name]).await?;
        let value: String = row.map_or(Ok(String::new()), |row| session.get(&row, 0))?;
        if value == "off" {
            complaints.push(format!("{name} is off: {danger}; set it to on"));
        }
    }
    Ok(())
}

/// A step that reads otherwise today than when it was applied means that somebody else's build was here.
async fn steps(session: &Session, complaints: &mut Vec<String>) -> Result<(), StoreError> {
    for (step, version) in migrate::STEPS.iter().zip(1i32..) {
        let row = session
            .row("select digest = md5($2) from schema_steps where version = $1", &[&version, step])
            .await?;
        let is_same: Option<bool> = row.map(|row| session.get(&row, 0)).transpose()?;
        if is_same == Some(false) {
            complaints
                .push(format!("step {version} of the schema was made by a build that differs from this"));
        }
    }
    Ok(())
}

async fn objects(session: &Session, complaints: &mut Vec<String>) -> Result<(), StoreError> {
    let names: Vec<&str> = TABLES.to_vec();
    let missing = session
        .rows(
            "select name from unnest($1::text[]) as name where to_regclass(quote_ident(name)) is null",
            &[&names],
        )
        .await?;
    for row in &missing {
        complaints.push(format!("the table {} is missing", session.get::<String>(row, 0)?));
    }
    let invalid = session
        .rows(
            "select indexrelid::regclass::text from pg_index join pg_class on pg_class.oid = indexrelid
             where not (indisvalid and indisready) and relnamespace = current_schema()::regnamespace",
            &[],
        )
        .await?;
    for row in &invalid {
        let name: String = session.get(row, 0)?;
        complaints.push(format!("the index {name} is not valid: run `reindex index {name}`"));
    }
    let unproven = session
        .rows(
            "select conrelid::regclass::text, conname::text from pg_constraint
             where not convalidated and connamespace = current_schema()::regnamespace",
            &[],
        )
        .await?;
    for row in &unproven {
        let (table, name): (String, String) = (session.get(row, 0)?, session.get(row, 1)?);
        complaints.push(format!("the constraint {name} of {table} was never checked"));
    }
    let orphans = session
        .rows(
            "select relname::text from pg_class where relkind = 'r' and relname ~ '^rollups_[0-9]+s_[0-9]+$'
                and relnamespace = current_schema()::regnamespace
                and not exists (select 1 from pg_inherits where inhrelid = pg_class.oid)",
            &[],
        )
        .await?;
    for row in &orphans {
        let name: String = session.get(row, 0)?;
        complaints.push(format!(
            "the table {name} was a part of rollups and is attached no more: its rows are seen by nobody; \
             attach it again or drop it"
        ));
    }
    let attached = session.row("select count(*) from pg_inherits where inhparent = 'rollups'::regclass", &[]);
    let attached: i64 = attached.await?.map_or(Ok(0), |row| session.get(&row, 0))?;
    let strangers = attached - i64::try_from(listed(session).await?.len()).unwrap_or(0);
    if strangers > 0 {
        complaints.push(format!(
            "{strangers} part(s) of rollups have bounds that Caelum does not make: it never drops them"
        ));
    }
    Ok(())
}

/// Documents that are no JSON any more.
async fn documents(session: &Session, complaints: &mut Vec<String>) -> Result<(), StoreError> {
    for (table, key) in [("targets", "target_id"), ("nodes", "node_id")] {
        let rows = session.rows(&format!("select {key}, document from {table} order by {key}"), &[]).await?;
        for row in &rows {
            let document: String = session.get(row, 1)?;
            if serde_json::from_str::<serde_json::Value>(&document).is_err() {
                let id: String = session.get(row, 0)?;
                complaints.push(format!("the document of {id} in {table} is damaged"));
            }
        }
    }
    Ok(())
}
