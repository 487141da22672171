//! What PostgreSQL's own tools must be told to reach the server of an address: libpq's environment. Nothing of it
//! stands in a command line, where every user of the machine could read the password.

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::tls;
use crate::{BoxedError, PostgresAddress};

impl PostgresAddress {
    /// libpq's variables for `pg_dump`, `pg_restore` and `psql`. Reads the password's file if there is one.
    pub async fn tool_environment(&self) -> Result<Vec<(&'static str, String)>, BoxedError> {
        let (config, _) = tls::settle(self).await?;
        let mut set = Vec::new();
        let hosts: Vec<String> = config.get_hosts().iter().map(host).collect();
        set.push(("PGHOST", hosts.join(",")));
        let ports: Vec<String> = config.get_ports().iter().map(u16::to_string).collect();
        if !ports.is_empty() {
            set.push(("PGPORT", ports.join(",")));
        }
        set.extend(config.get_user().map(|user| ("PGUSER", user.to_owned())));
        set.extend(config.get_dbname().map(|name| ("PGDATABASE", name.to_owned())));
        if let Some(password) = config.get_password() {
            set.push(("PGPASSWORD", String::from_utf8_lossy(password).into_owned()));
        }
        set.push(("PGTARGETSESSIONATTRS", attributes(config.get_target_session_attrs()).to_owned()));
        let mode = match (config.get_ssl_mode(), &self.root_certificates) {
            (SslMode::Disable, _) => "disable",
            (SslMode::Require, Some(_)) => "verify-full",
            (SslMode::Require, None) => "require",
            _ => "prefer",
        };
        set.push(("PGSSLMODE", mode.to_owned()));
        set.extend(self.root_certificates.as_ref().map(|path| ("PGSSLROOTCERT", path.display().to_string())));
        Ok(set)
    }
}

fn host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

fn attributes(wanted: TargetSessionAttrs) -> &'static str {
    match wanted {
        TargetSessionAttrs::ReadWrite => "read-write",
        TargetSessionAttrs::ReadOnly => "read-only",
        _ => "any",
    }
}

#[cfg(test)]
mod tests {
    use crate::Address;

    #[tokio::test]
    async fn tools_are_told_hosts_user_and_password_by_their_environment() {
        let text = "postgres://caelum:s3%20cret@db1:5433,db2:5434/records?sslmode=require";
        let Ok(Address::Postgres(address)) = text.parse() else { panic!("it is an address") };
        let set = address.tool_environment().await.expect("told");
        for (name, value) in [
            ("PGHOST", "db1,db2"),
            ("PGPORT", "5433,5434"),
            ("PGUSER", "caelum"),
            ("PGDATABASE", "records"),
            ("PGPASSWORD", "s3 cret"),
            ("PGTARGETSESSIONATTRS", "read-write"),
            ("PGSSLMODE", "require"),
        ] {
            assert!(set.contains(&(name, value.to_owned())), "{name} in {set:?}");
        }
    }
}
