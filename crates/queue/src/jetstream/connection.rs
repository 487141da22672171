//! The connection to NATS: made once, kept for ever, talked about only when it is lost or regained.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    sync::Arc,
    time::Duration,
};

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr,
    jetstream::{Context, context::ContextBuilder},
    rustls,
};
use tokio::{sync::watch, time::Instant};

use super::{ACK_WAIT, OPEN_WAIT};
use crate::{Login, NatsAddress, OpenError};

/// Between two questions whether the other side is still there; the third without an answer is one too many.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Most time for one try to connect.
const CONNECT_WAIT: Duration = Duration::from_secs(4);
/// Pause after a first failed try; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(4);
/// The oldest server that does what is asked of it.
const OLDEST: (i64, i64) = (2, 9);

/// A client, and whether it is connected.
pub(super) struct Connection {
    pub client: Client,
    pub jetstream: Context,
    pub is_up: watch::Receiver<bool>,
}

/// Connects, or says after at most [`OPEN_WAIT`] why not.
pub(super) async fn connect(address: &NatsAddress) -> Result<Connection, OpenError> {
    let servers = address.servers();
    let scheme = if address.tls { "tls" } else { "nats" };
    let addresses = address
        .hosts
        .iter()
        .map(|host| format!("{scheme}://{host}").parse())
        .collect::<Result<Vec<ServerAddr>, _>>()
        .map_err(|error| OpenError::Unusable { servers: servers.clone(), reason: error.to_string() })?;
    let deadline = Instant::now() + OPEN_WAIT;
    let (tell, is_up) = watch::channel(true);
    let tell = Arc::new(tell);
    let mut tries = 0;
    let client = loop {
        let options = options(address, Arc::clone(&tell)).await?;
        let reason = match tokio::time::timeout(CONNECT_WAIT, options.connect(&addresses[..])).await {
            Ok(Ok(client)) => break client,
            Ok(Err(error)) => {
                // More tries would not help against these.
                let reason = match error.kind() {
                    ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                        format!("it does not let us in ({error}); check the login in the address")
                    }
                    ConnectErrorKind::Io if distrusts(&error) => {
                        format!("{error}; name its authority with ?ca=FILE.pem")
                    }
                    _ => String::new(),
                };
                if !reason.is_empty() {
                    return Err(OpenError::Unreachable { servers, reason });
                }
                error.to_string()
            }
            Err(_) => "it does not answer".to_owned(),
        };
        tries += 1;
        let pause = pause_after(tries);
        if Instant::now() + pause >= deadline {
            return Err(OpenError::Unreachable { servers, reason });
        }
        tokio::time::sleep(pause).await;
    };
    let info = client.server_info();
    let reason = if !is_new_enough(&info.version) {
        let (major, minor) = OLDEST;
        Some(format!("its version is {}, and at least {major}.{minor} is needed", info.version))
    } else if !info.headers {
        Some("it does not support headers; switch them on in its settings".to_owned())
    } else {
        None
    };
    if let Some(reason) = reason {
        return Err(OpenError::Unusable { servers, reason });
    }
    let jetstream = ContextBuilder::new().timeout(ACK_WAIT).build(client.clone());
    Ok(Connection { client, jetstream, is_up })
}

async fn options(address: &NatsAddress, tell: Arc<watch::Sender<bool>>) -> Result<ConnectOptions, OpenError> {
    let servers = address.servers();
    let shown = servers.clone();
    let mut options = ConnectOptions::new()
        .name("caelum")
        .connection_timeout(CONNECT_WAIT)
        .request_timeout(Some(ACK_WAIT))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(pause_after)
        .require_tls(address.tls)
        .event_callback(move |event| {
            note(&event, &tell, &shown);
            std::future::ready(())
        });
    options = match &address.login {
        Some(Login::Token(token)) => options.token(token.clone()),
        Some(Login::User { name, password }) => options.user_and_password(name.clone(), password.clone()),
        None => options,
    };
    if let Some(path) = &address.authority {
        options = options.add_root_certificates(path.clone());
    }
    if let Some(path) = &address.credentials {
        options = options.credentials_file(path).await.map_err(|error| OpenError::Unusable {
            servers,
            reason: format!("the credentials file {} cannot be read: {error}", path.display()),
        })?;
    }
    Ok(options)
}

/// Whether it is the server's certificate that is not believed.
fn distrusts(error: &ConnectError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let cause = source.and_then(io::Error::get_ref).and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

/// One line when the connection is lost and one when it is back, however many tries lie between.
fn note(event: &Event, is_up: &watch::Sender<bool>, servers: &str) {
    match event {
        Event::Disconnected if is_up.send_replace(false) => tracing::warn!(
            code = "queue.connection_lost",
            servers,
            "the connection to NATS is lost; events are not accepted until it is back, and none is lost"
        ),
        Event::Connected if !is_up.send_replace(true) => {
            tracing::info!(code = "queue.connection_regained", servers, "connected to NATS again");
        }
        Event::ServerError(error) => {
            tracing::warn!(code = "queue.server_complains", servers, %error, "NATS complains");
        }
        other => tracing::debug!(servers, event = %other, "NATS"),
    }
}

/// How long to wait after so many failed tries: twice as long each time, and not at the same moment as all
/// the others who lost the same server.
fn pause_after(tries: usize) -> Duration {
    let doubled = RETRY_MIN.saturating_mul(1 << tries.clamp(1, 8).saturating_sub(1)).min(RETRY_MAX);
    let chance = RandomState::new().hash_one(tries) % 1000;
    doubled / 2 + doubled.mul_f64(chance as f64 / 2000.0)
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<i64>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_older_than_what_is_needed_is_told_by_its_number() {
        for (version, expected) in
            [("2.9.10", true), ("2.14.0-RC.1", true), ("3.0.0", true), ("2.8.4", false), ("", false)]
        {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }

    #[test]
    fn pauses_grow_and_stay_within_their_bounds() {
        for tries in 0..100 {
            let pause = pause_after(tries);
            assert!(RETRY_MIN / 2 <= pause && pause <= RETRY_MAX, "{pause:?} after {tries}");
        }
        assert!(pause_after(1) <= RETRY_MIN && pause_after(50) >= RETRY_MAX / 2);
    }
}
