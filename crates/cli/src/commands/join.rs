//! `caelum join`: makes this machine a node of a cluster, by a token that somebody was given there.
//!
//! The key is made here and stays here. The server is trusted only with the authority that the token names;
//! before that it is told nothing.

use std::io::Read as _;

use anyhow::{Context as _, Result, anyhow, bail};
use caelum_drivers::{host, tls};
use caelum_model::{
    cluster::{Ceiling, NodeRole},
    id::NodeId,
    join::{Admission, Invitation, JoinAnswer, JoinRequest},
};
use caelum_roles::enrol::{self, JoinFailure, invitation, sealed};

use crate::{
    arguments::Join,
    data::DataDirectory,
    enrolled::{self, Enrolled},
    environment,
    exit::{Exit, Unreachable},
    output,
};

/// Longest token that is read from standard input, bytes.
const INPUT_BYTES_MAX: u64 = 16 << 10;

/// Joins, and says what to type next.
pub async fn run(arguments: Join) -> Result<Exit> {
    let text = match arguments.token.as_str() {
        "-" => {
            let mut text = String::new();
            let input = std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
            input.context("read the token from standard input")?;
            text
        }
        given => given.to_owned(),
    };
    let text = match arguments.sealed {
        true => sealed::open(&text, &passphrase()?)?,
        false => text,
    };
    let invitation = invitation::parse(&text)?;
    let data = DataDirectory::locate(arguments.data)?;
    let (node_id, answer, role) = join(&data, invitation, arguments.role, arguments.ceiling).await?;
    output::print(&format!(
        "This machine is {node_id} of the cluster {} now, as {}.\nServers may {} it. Start it with:\n\n  \
         caelum {} --data {}\n",
        answer.cluster_name,
        role.as_str(),
        match arguments.ceiling {
            Ceiling::Observe => "observe",
            Ceiling::Tasks => "observe and give tasks to",
            Ceiling::Shell => "observe, give tasks to and command",
        },
        if role == NodeRole::Server { "server" } else { "agent" },
        data.root().display()
    ))?;
    Ok(Exit::Fine)
}

/// The variable with the passphrase of a sealed invitation.
pub const PASSPHRASE: &str = "CAELUM_JOIN_PASSPHRASE";

/// The passphrase that was given: in the environment, else on the first line of standard input.
pub fn passphrase() -> Result<String> {
    if let Some(given) = environment::text(PASSPHRASE).filter(|given| !given.is_empty()) {
        return Ok(given);
    }
    let mut line = String::new();
    let mut input = std::io::BufReader::new(std::io::stdin().lock().take(INPUT_BYTES_MAX));
    std::io::BufRead::read_line(&mut input, &mut line).context("read the passphrase from standard input")?;
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        bail!("a passphrase is needed: set {PASSPHRASE}, or give it on standard input");
    }
    Ok(line.to_owned())
}

/// Asks servers, and the mailbox where none of them can be reached and there is one.
async fn ask(invitation: &Invitation, request: &JoinRequest) -> Result<JoinAnswer, JoinFailure> {
    let direct = enrol::join(&invitation.servers, &invitation.authority_sha256, request).await;
    let missed = match direct {
        Err(missed @ (JoinFailure::Unreachable(_) | JoinFailure::NotTrusted(_)))
            if invitation.mailbox.is_some() =>
        {
            missed
        }
        other => return other,
    };
    tracing::info!(code = "join.mailbox", "{missed}; leaving a sealed request in the mailbox");
    match enrol::join_by_mailbox(invitation, request, enrol::MAILBOX_PATIENCE).await {
        Err(JoinFailure::Unreachable(nobody)) => {
            Err(JoinFailure::Unreachable(format!("{missed}; and {nobody}")))
        }
        answered => answered,
    }
}

/// An invitation as it can be read: one that is sealed is opened by the passphrase in the environment.
pub fn opened(text: String) -> Result<String> {
    if !sealed::is_sealed(&text) {
        return Ok(text);
    }
    match environment::text(PASSPHRASE).filter(|given| !given.is_empty()) {
        Some(passphrase) => Ok(sealed::open(&text, &passphrase)?),
        None => bail!(
            "the invitation is sealed: put {PASSPHRASE}=… into /etc/caelum/environment, readable by root only, and \
             start this again"
        ),
    }
}

/// Joins by an invitation and keeps what is needed to be a node. Answers the node's id, what the server said,
/// and the role that the certificate gives.
pub async fn join(
    data: &DataDirectory,
    invitation: Invitation,
    role: NodeRole,
    ceiling: Ceiling,
) -> Result<(NodeId, JoinAnswer, NodeRole)> {
    let secrets = data.secrets();
    if secrets.join("ca.key").exists() {
        bail!(
            "{} belongs to a server with a cluster of its own: name another directory with --data",
            data.root().display()
        );
    }
    if let Some(kept) = Enrolled::load(&secrets)?
        && kept.cluster.cluster_id != invitation.cluster_id
    {
        bail!(
            "{} belongs to a node of {} ({}): name another directory with --data, or remove {} first",
            data.root().display(),
            kept.cluster.cluster_name,
            kept.cluster.cluster_id,
            secrets.display()
        );
    }
    data.make()?;
    let node_id = enrolled::own_id(&secrets)?;
    let key = enrolled::own_key(&secrets)?;
    let request = JoinRequest {
        csr_pem: key.csr_pem(&node_id)?,
        node_id: node_id.clone(),
        hostname: host::hostname(),
        role,
        ceiling,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        admission: Admission::Token {
            token_id: invitation.token_id.clone(),
            secret: invitation.secret.clone(),
        },
    };
    let mut answer = ask(&invitation, &request).await.map_err(|failure| match failure {
        JoinFailure::Unreachable(_) => Unreachable(failure.to_string()).into(),
        failure => anyhow!(failure),
    })?;
    if answer.cluster_id != invitation.cluster_id {
        bail!("the server answered for the cluster {}, not {}", answer.cluster_id, invitation.cluster_id);
    }
    if role == NodeRole::Server && answer.grant.is_none() {
        bail!(
            "the server that answered keeps its records in a file of its own, which no other server can use: \
             several servers need --store postgres://… and --queue nats://… on each"
        );
    }
    if answer.servers.is_empty() {
        answer.servers = invitation.servers;
    }
    let pass = tls::check_node_chain(&answer.certificate_pem, &answer.authority_pem, &key.key_sha256())?;
    Enrolled::save(&secrets, &answer, ceiling, pass.role)?;
    Ok((node_id, answer, pass.role))
}
