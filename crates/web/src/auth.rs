//! Who is asking: a person with a session, or a program with a token.
//!
//! A session is a random secret in a cookie; the records have its SHA-256 as a key with a time to live, and the
//! user's name as value: every server that shares them knows it, and knows when it ends. They stand on the
//! records whatever the servers coordinate by: the role is read from the user there each time, so that a change
//! holds at once, and a session elsewhere would save no question and could only disagree. A token is
//! a bearer secret, kept as its SHA-256, with scopes.

use std::sync::Arc;

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier};
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use caelum_drivers::random;
use caelum_engine::lockout::address_key;
use caelum_model::{
    UnixMs,
    access::{AuditEntry, Role, Scope, Token},
};
use caelum_store::Store;

use crate::{
    error::{ApiError, Cause},
    serve::Transport,
    state::State,
};

/// Name of the session cookie.
const COOKIE: &str = "caelum_session";
/// Its name over plain HTTP: browsers let no plain answer replace a cookie that was set over TLS, and a
/// sign-in that cannot set its cookie would lead nowhere.
const PLAIN_COOKIE: &str = "caelum_session_plain";
/// Characters of a session's secret.
const SECRET_LENGTH: usize = 43;
/// Longest password looked at; longer ones only cost time.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Somebody who may do something: a person, or a program with an equivalent scope.
#[derive(Clone, Debug)]
pub struct Person {
    /// User name, or `token:` and the token's name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Whether a session cookie said so.
    pub has_session: bool,
}

impl Person {
    /// Refuses whoever has less than the role needed.
    pub fn require(&self, needed: Role) -> Result<(), ApiError> {
        if self.role >= needed { Ok(()) } else { Err(ApiError::Forbidden { needed }) }
    }
}

/// Nobody is signed in. A page leads to the sign-in page, everything else answers 401.
pub struct SignInFirst {
    path: String,
    is_page: bool,
    error: Option<ApiError>,
}

impl IntoResponse for SignInFirst {
    fn into_response(self) -> Response {
        if let Some(error) = self.error {
            return error.into_response();
        }
        if self.is_page {
            let next: String = self
                .path
                .bytes()
                .map(|b| match b {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                        char::from(b).to_string()
                    }
                    other => format!("%{other:02X}"),
                })
                .collect();
            return Redirect::to(&format!("/login?next={next}")).into_response();
        }
        ApiError::Unauthorized("sign in, or send a token as `Authorization: Bearer …`").into_response()
    }
}

impl FromRequestParts<Arc<State>> for Person {
    type Rejection = SignInFirst;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, SignInFirst> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let is_page = !path.starts_with("/api/") && !path.starts_with("/metrics") && parts.method == "GET";
        let refuse = |error| SignInFirst { path: path.clone(), is_page, error };
        match find(&parts.headers, state).await {
            Ok(Some(person)) => Ok(person),
            Ok(None) => Err(refuse(None)),
            Err(error) => Err(refuse(Some(error))),
        }
    }
}

impl OptionalFromRequestParts<Arc<State>> for Person {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Option<Self>, ApiError> {
        find(&parts.headers, state).await
    }
}

async fn find(headers: &HeaderMap, state: &State) -> Result<Option<Person>, ApiError> {
    if let Some(secret) = bearer(headers) {
        let Some(token) = live_token(secret, &state.store, state.now_ms()).await? else {
            return Err(ApiError::Unauthorized("the token is unknown, expired or revoked"));
        };
        return Ok(token.scopes.iter().filter_map(|scope| scope.role()).max().map(|role| Person {
            name: format!("token:{}", token.name),
            role,
            has_session: false,
        }));
    }
    for secret in session_secrets(headers) {
        if let Some(person) = find_session(&secret, state).await? {
            return Ok(Some(person));
        }
    }
    Ok(None)
}

async fn find_session(secret: &str, state: &State) -> Result<Option<Person>, ApiError> {
    let key = session_key(secret);
    let now_ms = state.now_ms();
    let Some(kept) = state.store.key(key.clone(), now_ms).await? else { return Ok(None) };
    let Some(user) = state.store.user(kept.value.clone()).await? else { return Ok(None) };
    // Sliding, with a write only when half of the time is over.
    let ttl_ms = session_ttl_ms(state);
    if kept.lives_ms < ttl_ms / 2 {
        // Only as it was seen: somebody who signs out at the same time stays signed out.
        state.store.compare_and_put_key(key, Some(kept.version), kept.value, now_ms, ttl_ms).await?;
    }
    Ok(Some(Person { name: user.name, role: user.role, has_session: true }))
}

/// The secret of an `Authorization: Bearer` header.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// The token with this secret, if it is in force.
pub async fn live_token(secret: &str, store: &Store, now_ms: UnixMs) -> Result<Option<Token>, ApiError> {
    let token = store.token_by_hash(sha256(secret)).await?;
    Ok(token.filter(|token| {
        token.revoked_at_ms.is_none() && token.expires_at_ms.is_none_or(|expiry| expiry > now_ms)
    }))
}

/// Whether a token is for ingest.
pub fn may_ingest(token: &Token) -> bool {
    token.scopes.contains(&Scope::Ingest)
}

/// Why somebody could not sign in.
#[derive(Debug)]
pub enum SignInError {
    /// Name or password is wrong; which of them is not said.
    Wrong,
    /// Too many failures.
    Wait {
        /// For how long, s.
        seconds: i64,
    },
    /// The server could not tell.
    Failed(ApiError),
}

/// Checks name and password and makes a session. Answers with the value of the `Set-Cookie` header.
pub async fn sign_in(
    state: &State,
    name: &str,
    password: &str,
    transport: &Transport,
) -> Result<HeaderValue, SignInError> {
    let now_ms = state.now_ms();
    let keys = [format!("name:{name}"), format!("address:{}", address_key(transport.peer.ip()))];
    let wait_ms = {
        let lockout = state.lockout.lock().expect("no code panics while it holds this lock");
        keys.iter().map(|key| lockout.wait_ms(key, now_ms)).max().unwrap_or(0)
    };
    if wait_ms > 0 {
        return Err(SignInError::Wait { seconds: (wait_ms + 999) / 1000 });
    }
    let fail = |error: ApiError| SignInError::Failed(error);
    let user = state.store.user(name.to_owned()).await.map_err(|error| fail(error.into()))?;
    let hash = user.as_ref().map(|user| user.password_hash.clone());
    let is_right = is_right_password(state, password, hash).await.map_err(fail)?;
    let user = user.filter(|_| is_right);
    {
        let mut lockout = state.lockout.lock().expect("no code panics while it holds this lock");
        for key in &keys {
            if user.is_some() { lockout.succeed(key) } else { lockout.fail(key, now_ms) }
        }
    }
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    let outcome = if user.is_some() { "done" } else { "refused: wrong name or password" };
    record(state, &shown, "session.open", &transport.peer.ip().to_string(), outcome).await;
    let Some(user) = user else { return Err(SignInError::Wrong) };
    let secret = random::secret(SECRET_LENGTH);
    let ttl_ms = session_ttl_ms(state);
    state
        .store
        .put_key(session_key(&secret), user.name, now_ms, ttl_ms)
        .await
        .map_err(|error| fail(error.into()))?;
    Ok(cookie(&secret, ttl_ms / 1000, transport))
}

/// Ends the session of a request. Answers with the value of the `Set-Cookie` header that forgets it.
pub async fn sign_out(
    state: &State,
    headers: &HeaderMap,
    transport: &Transport,
) -> Result<HeaderValue, ApiError> {
    for secret in session_secrets(headers) {
        state.store.delete_key(session_key(&secret)).await?;
    }
    Ok(cookie("", 0, transport))
}

/// The stored form of a new password: argon2id with the crate's recommended costs.
pub fn hash_password(password: &str) -> Result<String, argon2::password_hash::Error> {
    Ok(Argon2::default().hash_password(password.as_bytes())?.to_string())
}

/// Writes a line of the audit log. The act itself has been done or refused by now, so that a failure to
/// write is said in the log and does not undo it.
pub async fn record(state: &State, actor: &str, action: &str, subject: &str, outcome: &str) {
    let entry = line(state, actor, action, subject, outcome);
    if let Err(error) = state.store.audit(entry).await {
        tracing::error!(code = "audit.write_failed", action, actor, %error, "the audit log has a gap");
    }
}

/// A line of the audit log, for an act that writes it with what it does.
pub fn line(state: &State, actor: &str, action: &str, subject: &str, outcome: &str) -> AuditEntry {
    AuditEntry {
        at_ms: state.now_ms(),
        actor: actor.to_owned(),
        action: action.to_owned(),
        subject: subject.to_owned(),
        outcome: outcome.to_owned(),
    }
}

/// Whether a request carries a session cookie, valid or not.
pub fn has_session_cookie(headers: &HeaderMap) -> bool {
    session_secrets(headers).next().is_some()
}

/// SHA-256 of a secret, the form in which it is kept.
pub fn sha256(secret: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, secret.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

async fn is_right_password(state: &State, password: &str, hash: Option<String>) -> Result<bool, ApiError> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Ok(false);
    }
    let _permit =
        state.password_checks.acquire().await.map_err(|error| ApiError::Internal(Cause::from(error)))?;
    let password = password.to_owned();
    tokio::task::spawn_blocking(move || match hash {
        Some(hash) => PasswordHash::new(&hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()),
        None => {
            // An unknown name takes as long as a known one.
            drop(hash_password(&password));
            false
        }
    })
    .await
    .map_err(|error| ApiError::Internal(Cause::from(error)))
}

fn session_ttl_ms(state: &State) -> UnixMs {
    i64::try_from(state.settings.session_ttl_s).unwrap_or(i64::MAX / 2000).saturating_mul(1000)
}

/// Secrets of session cookies, valid or not; at most one a name, so that a request costs little.
fn session_secrets(headers: &HeaderMap) -> impl Iterator<Item = String> + '_ {
    [COOKIE, PLAIN_COOKIE].into_iter().filter_map(|wanted| {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(name, secret)| *name == wanted && !secret.is_empty())
            .map(|(_, secret)| secret.to_owned())
    })
}

fn session_key(secret: &str) -> String {
    let digest = sha256(secret);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("session/{hex}")
}

fn cookie(secret: &str, max_age_s: i64, transport: &Transport) -> HeaderValue {
    let (name, secure) = if transport.is_tls { (COOKIE, "; Secure") } else { (PLAIN_COOKIE, "") };
    let text = format!("{name}={secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_s}{secure}");
    HeaderValue::try_from(text).expect("secrets are letters and digits")
}
