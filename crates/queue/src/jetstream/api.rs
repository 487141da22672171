//! Asking JetStream: one request, one answer, and errors in two kinds.
//!
//! It says what the server said or that nobody answered, and leaves what that means to its callers.

use async_nats::jetstream::{
    self, Context, ErrorCode, context::RequestErrorKind, response::Response, stream,
};
use serde::{Serialize, de::DeserializeOwned};

/// Why there is no answer to go on with.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nobody answered, or not in time; the text says which.
    Away(String),
    /// The server refused.
    Said(jetstream::Error),
}

impl Refusal {
    /// Whether the same request may fare better later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Away(_) => true,
            Self::Said(error) => is_passing(error),
        }
    }

    pub(super) fn kind(&self) -> Option<ErrorCode> {
        match self {
            Self::Away(_) => None,
            Self::Said(error) => Some(error.error_code()),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Away(reason) => f.write_str(reason),
            Self::Said(error) => write!(f, "JetStream says: {error}"),
        }
    }
}

/// Whether the server expects better times: no leader, too few nodes, no room for the moment.
pub(super) fn is_passing(error: &jetstream::Error) -> bool {
    error.code() >= 500
}

/// Asks one thing. `subject` has no prefix.
pub(super) async fn ask<T: DeserializeOwned>(
    context: &Context,
    subject: String,
    body: &impl Serialize,
) -> Result<T, Refusal> {
    let answer: Response<T> = context.request(subject, body).await.map_err(|error| {
        Refusal::Away(match error.kind() {
            RequestErrorKind::TimedOut => "JetStream does not answer in time".to_owned(),
            RequestErrorKind::NoResponders => {
                "no JetStream answers (it is not enabled, or its cluster has no leader just now)".to_owned()
            }
            _ => error.to_string(),
        })
    })?;
    match answer {
        Response::Ok(answer) => Ok(answer),
        Response::Err { error } => Err(Refusal::Said(error)),
    }
}

/// What a stream is and how it stands.
pub(super) async fn info(context: &Context, stream: &str) -> Result<stream::Info, Refusal> {
    ask(context, format!("STREAM.INFO.{stream}"), &()).await
}
