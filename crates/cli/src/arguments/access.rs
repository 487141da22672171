//! The arguments of `caelum token` and `caelum user`.

use caelum_model::{access::Scope, cluster::NodeRole};
use caelum_store::MailboxAddress;
use clap::Subcommand;

use super::{
    Place,
    words::{duration_ms, node_role, scope},
};

/// `caelum token …`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print it, alone on the last line. It is not shown again.
    New {
        /// What it allows: ingest, read, operate, admin
        #[arg(long, required = true, value_delimiter = ',', value_parser = scope)]
        scope: Vec<Scope>,
        /// The probe that an ingest token speaks for, or * for any
        #[arg(long, value_name = "ID")]
        client_id: Option<String>,
        /// What people call it [default: after its scopes]
        #[arg(long)]
        name: Option<String>,
        /// When it stops working, such as 12h or 30d [default: never]
        #[arg(long, value_name = "TIME", value_parser = duration_ms)]
        expires: Option<i64>,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
    /// Make a token that admits machines as nodes (`caelum join`). It is not shown again.
    Join {
        /// How many machines it admits
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// How long it is valid, such as 90s, 12h or 30d
        #[arg(long, value_name = "TIME", value_parser = duration_ms, default_value = "24h")]
        expires: i64,
        /// The most it makes of a machine: agent, beacon, server
        #[arg(long, value_parser = node_role, default_value = "agent")]
        role: NodeRole,
        /// Where machines reach the server; may be given more than once [default: where it listens]
        #[arg(long, value_name = "HOST:PORT")]
        server: Vec<String>,
        /// Where machines leave a sealed request if they reach no server: postgres://, redis:// or file:, with an
        /// account that can do no more than that (`caelum package mailboxes` shows how to make one)
        #[arg(long, value_name = "ADDRESS", env = "CAELUM_TOKEN_MAILBOX", hide_env_values = true)]
        mailbox: Option<MailboxAddress>,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
    /// List tokens, newest first; their secrets are not known.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
    /// Make a token useless.
    Revoke {
        /// The token's id, as listed
        id: String,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
}

/// `caelum user …`
#[derive(Debug, Subcommand)]
pub enum User {
    /// Set a new password and end the user's sessions. Prints a generated one, alone on the last line.
    Password {
        /// Who
        name: String,
        /// Read the password from the first line of standard input instead
        #[arg(long)]
        stdin: bool,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
    },
}
