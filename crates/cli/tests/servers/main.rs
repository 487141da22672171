//! Caelum on servers of others: what its operator meets with PostgreSQL.

mod db;
mod records;
