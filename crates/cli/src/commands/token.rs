//! `caelum token`: tokens for programs, made on the machine whose data directory it is.
//!
//! Whoever may write in the data directory may make a token; no login is asked for. The server need not
//! run, and if it does, it sees the change, since both speak to the same store.

use anyhow::{Context as _, Result, anyhow, bail};
use caelum_drivers::clock::{Clock as _, SystemClock};
use caelum_model::{
    UnixMs,
    access::{AuditEntry, ClientBinding, Scope, Token},
};
use caelum_store::Store;
use caelum_web::api::access;
use serde_json::json;

use crate::{
    arguments::{self, Place},
    data::DataDirectory,
    exit::Exit,
    output,
};

/// Makes, lists or revokes tokens.
pub async fn run(command: arguments::Token) -> Result<Exit> {
    match command {
        arguments::Token::New { scope, client_id, name, expires, place } => {
            let now_ms = SystemClock.now_ms();
            let name = name.unwrap_or_else(|| words(&scope));
            let expires_at_ms = expires.map(|ms| now_ms + ms);
            let (token, secret) =
                access::make_token(&name, scope, client_id.as_deref(), expires_at_ms, now_ms)
                    .map_err(|wrong| anyhow!("cannot make this token: {wrong}"))?;
            let (id, about) = (token.token_id.clone(), describe(&token));
            let store = open(&place)?;
            store.add_token(token).await?;
            store.audit(audit(now_ms, "token.add", &name)).await?;
            store.close();
            output::print(&format!("token {id} allows {about}; it is not shown again:\n{secret}\n"))?;
        }
        arguments::Token::List { json, place } => {
            let store = open(&place)?;
            let tokens = store.tokens().await?;
            store.close();
            output::print(&list(&tokens, json, SystemClock.now_ms()))?;
        }
        arguments::Token::Revoke { id, place } => {
            let now_ms = SystemClock.now_ms();
            let store = open(&place)?;
            if !store.revoke_token(id.clone(), now_ms).await? {
                bail!("there is no token {id}; `caelum token list` shows them");
            }
            store.audit(audit(now_ms, "token.revoke", &id)).await?;
            store.close();
            output::print(&format!("token {id} is revoked\n"))?;
        }
    }
    Ok(Exit::Fine)
}

/// Opens the store of a data directory that has been used before.
pub fn open(place: &Place) -> Result<Store> {
    let data = DataDirectory::locate(place.data.clone())?;
    data.expect_made()?;
    let file = data.store_file();
    Store::open(&file).with_context(|| format!("open {}", file.display()))
}

/// A line of the audit log for something done on the machine itself.
pub fn audit(at_ms: UnixMs, action: &str, subject: &str) -> AuditEntry {
    AuditEntry {
        at_ms,
        actor: "local command line".to_owned(),
        action: action.to_owned(),
        subject: subject.to_owned(),
        outcome: "done".to_owned(),
    }
}

fn words(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join("+")
}

fn describe(token: &Token) -> String {
    match &token.binding {
        ClientBinding::None => words(&token.scopes),
        ClientBinding::One(client) => format!("{} for {client}", words(&token.scopes)),
        ClientBinding::Any => format!("{} for any probe", words(&token.scopes)),
    }
}

fn state(token: &Token, now_ms: UnixMs) -> &'static str {
    match (token.revoked_at_ms, token.expires_at_ms) {
        (Some(_), _) => "revoked",
        (None, Some(at)) if at <= now_ms => "expired",
        (None, _) => "valid",
    }
}

fn list(tokens: &[Token], as_json: bool, now_ms: UnixMs) -> String {
    if as_json {
        let tokens: Vec<_> = tokens
            .iter()
            .map(|token| {
                json!({
                    "token_id": token.token_id, "name": token.name, "scopes": token.scopes,
                    "binding": token.binding, "created_at_ms": token.created_at_ms,
                    "expires_at_ms": token.expires_at_ms, "revoked_at_ms": token.revoked_at_ms,
                    "state": state(token, now_ms),
                })
            })
            .collect();
        return format!("{:#}\n", json!({ "tokens": tokens }));
    }
    let row = |token: &Token| {
        vec![token.token_id.clone(), token.name.clone(), describe(token), state(token, now_ms).to_owned()]
    };
    output::table(&["ID", "NAME", "ALLOWS", "STATE"], &tokens.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use caelum_model::id::ClientId;

    use super::*;

    #[test]
    fn a_list_says_what_a_token_allows_and_whether_it_still_does() {
        let token = |binding, expires_at_ms, revoked_at_ms| Token {
            token_id: "t1".to_owned(),
            name: "probe".to_owned(),
            secret_sha256: [0; 32],
            scopes: vec![Scope::Ingest, Scope::Read],
            binding,
            created_at_ms: 1,
            expires_at_ms,
            revoked_at_ms,
        };
        let one = ClientBinding::One(ClientId::parse("p-1").expect("valid"));
        let tokens = [
            token(one, None, None),
            token(ClientBinding::Any, Some(5), None),
            token(ClientBinding::None, Some(5), Some(3)),
        ];
        let text = list(&tokens, false, 5);
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split("  ").collect()).collect();
        let ends: Vec<&str> = lines.iter().filter_map(|line| line.last().copied()).collect();
        assert_eq!(ends, ["valid", "expired", "revoked"]);
        assert!(text.contains("ingest+read for p-1") && text.contains("ingest+read for any probe"), "{text}");
        assert!(list(&tokens, true, 5).contains("\"state\": \"revoked\""));
    }
}
