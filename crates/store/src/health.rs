//! How the store itself fares: whether it answers, who answers, and how old an answer may be.

use caelum_model::UnixMs;
use serde::Serialize;

/// Who answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Where writes go, too.
    #[default]
    Primary,
    /// A copy that follows the primary.
    Replica,
}

/// Where answers that may be a little old come from just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReadsFrom {
    /// Who answers them.
    pub place: Place,
    /// How far the replica was behind when it was looked at last; none where the primary answers or the
    /// primary could not be asked how far it is.
    pub lag_ms: Option<i64>,
    /// The newest change a replica had when it was looked at last, by the primary's clock; none where the
    /// primary answers.
    pub as_of_ms: Option<UnixMs>,
}

/// A replica as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaHealth {
    /// Host and port.
    pub place: String,
    /// How far it is behind; none where it cannot be reached or compared.
    pub lag_ms: Option<i64>,
    /// Whether it answers reads just now.
    pub is_used: bool,
    /// Why it cannot be reached, if so.
    pub fault: Option<String>,
}

/// What a look at the store found. That there is one says that the store answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreHealth {
    /// `sqlite` or `postgres`.
    pub backend: &'static str,
    /// Where it is, without a password.
    pub place: String,
    /// What runs there, such as `15.8`.
    pub version: String,
    /// Whether that is too old to be relied on.
    pub is_too_old: bool,
    /// The schema's number.
    pub schema: u32,
    /// Whether it takes writes.
    pub is_primary: bool,
    /// Where reads go.
    pub reads: ReadsFrom,
    /// Each replica that the address names.
    pub replicas: Vec<ReplicaHealth>,
}

/// How much room a table takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// Rows, by the database's own estimate.
    pub rows: u64,
    /// Bytes, indexes included.
    pub bytes: u64,
}

/// How large the store is, and what lies where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// How it stands.
    pub health: StoreHealth,
    /// The newest schema that this version knows.
    pub known_schema: u32,
    /// Bytes of all of it.
    pub bytes: u64,
    /// Tables, by name.
    pub tables: Vec<TableStatus>,
    /// Parts of the rollups' table, by name.
    pub parts: Vec<TableStatus>,
}
