//! The machine's side of joining: asks one server after the other, and keeps no answer that it cannot trust.

use std::{sync::Arc, time::Duration};

use caelum_drivers::{
    exchange::{Answer, ExchangeError, Peer},
    tls::{self, TlsError},
};
use caelum_model::{
    join::{JOIN_PATH, JoinAnswer, JoinRequest},
    wire::ErrorJson,
};

/// Time for each step with one server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a machine did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// A server said no. Another would say the same.
    #[error("{server} refused: {message} ({code})")]
    Refused {
        /// Which.
        server: String,
        /// The stable code.
        code: String,
        /// The server's own words.
        message: String,
    },
    /// Somebody answers who is not of the cluster. They were not told the secret.
    #[error("{0}; the secret was not sent")]
    NotTrusted(String),
    /// No server answers.
    #[error("no server can be reached: {0}")]
    Unreachable(String),
    /// A server's answer is not what was asked for. Nothing of it is kept.
    #[error("{server} answered what cannot be used: {detail}")]
    Answer {
        /// Which.
        server: String,
        /// What is wrong.
        detail: String,
    },
    /// The mailbox cannot be used.
    #[error("{0}")]
    Mailbox(String),
    /// The request could not be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl JoinFailure {
    /// Whether the same may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused { code, .. } => matches!(code.as_str(), "rate_limited" | "overloaded" | "internal"),
            Self::NotTrusted(_) | Self::Answer { .. } | Self::Mailbox(_) | Self::Tls(_) => false,
        }
    }
}

/// Asks servers in turn to admit this machine. Each is trusted only with a certificate of the authority with
/// this fingerprint, and only then told anything.
pub async fn join(
    servers: &[String],
    authority_sha256: &str,
    request: &JoinRequest,
) -> Result<JoinAnswer, JoinFailure> {
    let key_sha256 = tls::csr_key_sha256(&request.csr_pem)?;
    let config = Arc::new(tls::pinned_join_config(authority_sha256)?);
    let body = serde_json::to_vec(request).expect("text and numbers have a JSON form");
    let (mut unreachable, mut not_trusted) = (Vec::new(), Vec::new());
    let mut busy = None;
    for server in servers.iter().take(super::SERVERS_MAX) {
        let answer = match Peer::open(server, Arc::clone(&config), PATIENCE).await {
            Ok(peer) => peer.post(JOIN_PATH, body.clone()).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) if answer.status == 200 => {
                return check(&answer, authority_sha256, request, &key_sha256)
                    .map_err(|detail| JoinFailure::Answer { server: server.clone(), detail });
            }
            Ok(answer) => {
                let refused = refused(server, &answer);
                if !refused.is_transient() {
                    return Err(refused);
                }
                busy = Some(refused);
            }
            Err(error @ ExchangeError::NotTrusted { .. }) => not_trusted.push(error.to_string()),
            Err(error) => unreachable.push(error.to_string()),
        }
    }
    Err(match busy {
        Some(busy) => busy,
        None if !not_trusted.is_empty() => JoinFailure::NotTrusted(not_trusted.join("; ")),
        None => JoinFailure::Unreachable(unreachable.join("; ")),
    })
}

fn refused(server: &str, answer: &Answer) -> JoinFailure {
    let said = serde_json::from_slice::<ErrorJson>(&answer.body).map(|said| said.error);
    let (code, message) = match said {
        Ok(error) => (error.code, error.message),
        Err(_) => ("unknown".to_owned(), format!("status {}", answer.status)),
    };
    JoinFailure::Refused { server: server.to_owned(), code, message }
}

/// What a server answered, if it is for this node and by that authority.
fn check(
    answer: &Answer,
    authority_sha256: &str,
    request: &JoinRequest,
    key_sha256: &str,
) -> Result<JoinAnswer, String> {
    let joined: JoinAnswer = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    judged(joined, authority_sha256, request, key_sha256)
}

/// An answer, if it is for this node and by that authority; however it came.
pub(super) fn judged(
    joined: JoinAnswer,
    authority_sha256: &str,
    request: &JoinRequest,
    key_sha256: &str,
) -> Result<JoinAnswer, String> {
    let authority = tls::fingerprint_of_pem(&joined.authority_pem).map_err(|error| error.to_string())?;
    if authority != authority_sha256 {
        return Err("it is of another authority".to_owned());
    }
    let pass = tls::check_node_chain(&joined.certificate_pem, &joined.authority_pem, key_sha256)
        .map_err(|error| error.to_string())?;
    if pass.node_id != request.node_id {
        return Err("the certificate is for another node".to_owned());
    }
    if !joined.servers.is_empty() && !super::are_servers(&joined.servers) {
        return Err("it names servers that cannot be reached".to_owned());
    }
    Ok(joined)
}
