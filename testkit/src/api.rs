//! Asking a server as a program or as a person would.

use std::sync::Once;

use anyhow::{Context as _, Result, bail};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, header};
use serde_json::{Value, json};

use crate::server::PASSWORD;

/// Chooses the cryptography of every TLS connection of this process, once.
pub fn install_cryptography() {
    static ONCE: Once = Once::new();
    // Somebody else may have installed the same before us, which is as good.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Api {
    http: Client,
    base: String,
    credential: Option<(header::HeaderName, String)>,
}

impl Api {
    /// A client that trusts this authority and no other, signed in as nobody. Redirects are shown, not
    /// followed. Each request has a connection of its own, since servers of tests come and go.
    pub fn new(base: &str, authority_pem: &[u8]) -> Result<Self> {
        install_cryptography();
        let authority = Certificate::from_pem(authority_pem).context("read the authority")?;
        let http = Client::builder()
            .tls_certs_only([authority])
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .context("make a client")?;
        Ok(Self { http, base: base.to_owned(), credential: None })
    }

    /// A client without TLS that keeps its connections, signed in as nobody.
    pub fn plain(base: &str) -> Result<Self> {
        install_cryptography();
        let http = Client::builder().build().context("make a client")?;
        Ok(Self { http, base: base.to_owned(), credential: None })
    }

    /// The same client without TLS at another address, keeping its connections.
    pub fn plain_at(&self, base: &str) -> Result<Self> {
        Ok(Self { credential: self.credential.clone(), ..Self::plain(base)? })
    }

    /// The same client at another address of the server.
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self.clone() }
    }

    /// The same client with a token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { credential: Some((header::AUTHORIZATION, format!("Bearer {token}"))), ..self.clone() }
    }

    /// The same client signed in as the administrator of a [`crate::server::Plan`].
    pub async fn signed_in(&self) -> Result<Self> {
        self.signed_in_as("admin", PASSWORD).await
    }

    /// The same client signed in.
    pub async fn signed_in_as(&self, username: &str, password: &str) -> Result<Self> {
        let body = json!({ "username": username, "password": password });
        let answer = self.request(Method::POST, "/api/login").json(&body).send().await.context("sign in")?;
        let status = answer.status();
        let cookie = answer.headers().get(header::SET_COOKIE).and_then(|cookie| cookie.to_str().ok());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
        match cookie {
            Some(cookie) if status.is_success() => {
                Ok(Self { credential: Some((header::COOKIE, cookie)), ..self.clone() })
            }
            _ => bail!("signing in as {username} was answered with {status}"),
        }
    }

    /// A request with this client's credential, to be completed.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.credential {
            Some((name, value)) => request.header(name, value),
            None => request,
        }
    }

    /// Asks for a path and answers whatever comes.
    pub async fn answer(&self, path: &str) -> Result<Response> {
        self.request(Method::GET, path).send().await.with_context(|| format!("ask for {path}"))
    }

    /// The JSON of a path that must be there.
    pub async fn json(&self, path: &str) -> Result<Value> {
        let answer = self.answer(path).await?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| format!("read the answer of {path}"))?;
        if !status.is_success() {
            bail!("{path} was answered with {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("read the answer of {path}: {text}"))
    }

    /// Posts events and answers status and body.
    pub async fn post_events(
        &self,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<(u16, Value)> {
        let request = self.request(Method::POST, "/events").header(header::CONTENT_TYPE, content_type);
        let answer = request.body(body).send().await.context("post events")?;
        let status = answer.status().as_u16();
        let text = answer.text().await.context("read the answer to events")?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}
