//! Asking a server what to measure.
//!
//! The server holds the question open until there is something new, so asking again at once is not rude; who
//! asks decides what to do when no server answers.

use std::{net::IpAddr, time::Duration};

use caelum_model::{envelope::ORDERS_PATH, probe::ProbeOrders, wire::ErrorJson};
use reqwest::{Client, StatusCode};
use rustls::ClientConfig;

use crate::poster::{PosterError, chain, client, read_bounded};

/// Longest answer that is waited for: the server holds a question for 25 s.
const ANSWER_MAX: Duration = Duration::from_secs(40);

/// Why there are no orders.
#[derive(Debug, thiserror::Error)]
pub enum OrdersError {
    /// No answer came.
    #[error("ask {url} what to measure: {detail}")]
    Unreachable {
        /// Whom.
        url: String,
        /// What happened.
        detail: String,
    },
    /// The server said no.
    #[error("ask {url} what to measure: {status}: {message}")]
    Refused {
        /// Whom.
        url: String,
        /// The HTTP status.
        status: u16,
        /// One sentence.
        message: String,
    },
}

/// What a machine says of itself when it asks.
#[derive(Clone, Copy, Debug)]
pub struct Me<'a> {
    /// Name of the host.
    pub hostname: &'a str,
    /// Its addresses: others let their reflectors answer these.
    pub addresses: &'a [IpAddr],
    /// UDP port where it reflects; none where it does not.
    pub reflector: Option<u16>,
}

/// Asks servers, the first that answers.
#[derive(Clone, Debug)]
pub struct OrderTaker {
    client: Client,
    servers: Vec<String>,
}

impl OrderTaker {
    /// Asks these servers, each `HOST:PORT`, with what [`crate::tls::to_server_config`] made.
    pub fn as_node(servers: &[String], tls: ClientConfig) -> Result<Self, PosterError> {
        let wrong = |detail: String| PosterError::Setting { url: servers.join(", "), detail };
        let client = client(tls).map_err(|error| wrong(chain(&error)))?;
        Ok(Self { client, servers: servers.to_vec() })
    }

    /// What to measure; none where it is still what the revision stands for.
    pub async fn take(&self, me: &Me<'_>, has: Option<&str>) -> Result<Option<ProbeOrders>, OrdersError> {
        let mut last =
            OrdersError::Unreachable { url: "a server".to_owned(), detail: "none is known".to_owned() };
        for server in &self.servers {
            match self.take_from(server, me, has).await {
                Ok(orders) => return Ok(orders),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn take_from(
        &self,
        server: &str,
        me: &Me<'_>,
        has: Option<&str>,
    ) -> Result<Option<ProbeOrders>, OrdersError> {
        let url = format!("https://{server}{ORDERS_PATH}");
        let unreachable =
            |error: reqwest::Error| OrdersError::Unreachable { url: url.clone(), detail: chain(&error) };
        let addresses: Vec<String> = me.addresses.iter().map(IpAddr::to_string).collect();
        let mut query = vec![("hostname", me.hostname.to_owned()), ("addresses", addresses.join(","))];
        query.extend(me.reflector.map(|port| ("reflector", port.to_string())));
        query.extend(has.map(|revision| ("has", revision.to_owned())));
        let mut asked = reqwest::Url::parse(&url)
            .map_err(|error| OrdersError::Unreachable { url: url.clone(), detail: error.to_string() })?;
        asked.query_pairs_mut().extend_pairs(query);
        let response = self.client.get(asked).timeout(ANSWER_MAX).send().await.map_err(unreachable)?;
        let status = response.status();
        if status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let body = read_bounded(response).await.map_err(unreachable)?;
        let refused =
            |message: String| OrdersError::Refused { url: url.clone(), status: status.as_u16(), message };
        if status != StatusCode::OK {
            let said: Option<ErrorJson> = serde_json::from_slice(&body).ok();
            return Err(refused(
                said.map_or_else(|| "no reason given".to_owned(), |said| said.error.message),
            ));
        }
        serde_json::from_slice(&body).map(Some).map_err(|error| refused(error.to_string()))
    }
}
