//! `caelum token`: tokens for programs and for machines that join, made on the machine whose data directory it is.
//!
//! Whoever may write in the data directory may make a token; no login is asked for. The server need not
//! run, and if it does, it sees the change, since both speak to the same store.

use std::{fs, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail};
use caelum_drivers::{
    clock::{Clock as _, SystemClock},
    tls,
};
use caelum_engine::enrol::token_state;
use caelum_model::{
    UnixMs,
    access::{AuditEntry, ClientBinding, Scope, Token},
    cluster::NodeRole,
    join::{JoinToken, MailboxPlace},
};
use caelum_roles::enrol::{
    invitation::{self, Destination},
    mailbox::token_key,
};
use caelum_store::Store;
use caelum_web::api::access;
use serde_json::{Value, json};

use super::{backends, settle, up::shared::authority};
use crate::{
    arguments::{self, Overrides, Place},
    data::DataDirectory,
    enrolled,
    exit::Exit,
    output,
};

/// Join tokens that are listed; older ones are over or forgotten.
const JOIN_TOKENS_SHOWN: usize = 500;

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
            let store = open(&place).await?;
            store.add_token(token).await?;
            store.audit(audit(now_ms, "token.add", &name)).await?;
            store.close();
            output::print(&format!("token {id} allows {about}; it is not shown again:\n{secret}\n"))?;
        }
        arguments::Token::Join { uses, expires, role, server, mailbox, place } => {
            let now_ms = SystemClock.now_ms();
            let store = open(&place).await?;
            let to = destination(&store, &place, server).await?;
            let servers = to.servers.join(" ");
            let (token, mut invitation) = invitation::make(to, role, uses, now_ms, now_ms + expires)
                .map_err(|wrong| anyhow!("cannot make this token: {wrong}"))?;
            let id = token.token_id.clone();
            let store = Arc::new(store);
            if let Some(mailbox) = mailbox {
                let (settings, data) = settle(place, Overrides::default())?;
                let authority = authority(&settings.config, &data.secrets(), &store).await?;
                let (address, key) = (mailbox.with_secrets(), token_key(&authority, &id));
                invitation.mailbox = Some(MailboxPlace { address, key });
            }
            store.add_join_token(token).await?;
            store.audit(audit(now_ms, "join_token.add", &id)).await?;
            store.close();
            output::print(&format!(
                "token {id} admits {uses} as {} through {servers}; on the machine that is to join, type \
                 `{}` and this, which is not shown again:\n{}\n",
                role.as_str(),
                if role == NodeRole::Server { "caelum server --join" } else { "caelum join" },
                invitation::to_text(&invitation)
            ))?;
        }
        arguments::Token::List { json, place } => {
            let store = open(&place).await?;
            let tokens = store.tokens().await?;
            let join_tokens = store.join_tokens(JOIN_TOKENS_SHOWN).await?;
            store.close();
            output::print(&list(&tokens, &join_tokens, json, SystemClock.now_ms()))?;
        }
        arguments::Token::Revoke { id, place } => {
            let now_ms = SystemClock.now_ms();
            let store = open(&place).await?;
            let action = if store.revoke_token(id.clone(), now_ms).await? {
                "token.revoke"
            } else if store.revoke_join_token(id.clone(), now_ms).await? {
                "join_token.revoke"
            } else {
                bail!("there is no token {id}; `caelum token list` shows them");
            };
            store.audit(audit(now_ms, action, &id)).await?;
            store.close();
            output::print(&format!("token {id} is revoked\n"))?;
        }
    }
    Ok(Exit::Fine)
}

/// The cluster that a join token leads to, from what the server wrote down.
async fn destination(store: &Store, place: &Place, servers: Vec<String>) -> Result<Destination> {
    let data = DataDirectory::locate(place.data.clone())?;
    let start_once = || format!("start the server once with `caelum up --data {}`", data.root().display());
    let (cluster_id, cluster_name) = (store.fact("cluster_id").await?, store.fact("cluster_name").await?);
    let file = data.authority_certificate();
    let authority = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(Destination {
        cluster_id: cluster_id.with_context(start_once)?,
        cluster_name: cluster_name.with_context(start_once)?,
        servers: if servers.is_empty() { listened_on(&data)? } else { servers },
        authority_sha256: tls::fingerprint_of_pem(&authority)?,
    })
}

/// Where the server that runs on this data is reached.
fn listened_on(data: &DataDirectory) -> Result<Vec<String>> {
    let Ok(text) = fs::read_to_string(data.ready_file()) else {
        bail!(
            "no server runs on the data in {}, so that its address is not known: start it, or say it with \
             --server HOST:PORT",
            data.root().display()
        );
    };
    let ready: Value =
        serde_json::from_str(&text).with_context(|| format!("read {}", data.ready_file().display()))?;
    let servers = ready["servers"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(servers.map(str::to_owned).collect())
}

/// Opens the records that the settings name, else those of a data directory that has been used before.
pub async fn open(place: &Place) -> Result<Store> {
    let (settings, data) = settle(place.clone(), Overrides::default())?;
    let address = backends::store_address(&settings, &data)?;
    if settings.config.server.store.is_none() && enrolled::grant(&data.secrets())?.is_none() {
        data.expect_made()?;
    }
    backends::open_store(&address).await
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

fn list(tokens: &[Token], join_tokens: &[JoinToken], as_json: bool, now_ms: UnixMs) -> String {
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
        let join_tokens: Vec<_> = join_tokens
            .iter()
            .map(|token| {
                json!({
                    "token_id": token.token_id, "role": token.role, "uses": token.uses,
                    "uses_left": token.uses_left, "created_at_ms": token.created_at_ms,
                    "expires_at_ms": token.expires_at_ms, "revoked_at_ms": token.revoked_at_ms,
                    "state": token_state(token, now_ms),
                })
            })
            .collect();
        return format!("{:#}\n", json!({ "tokens": tokens, "join_tokens": join_tokens }));
    }
    let row = |token: &Token| {
        vec![token.token_id.clone(), token.name.clone(), describe(token), state(token, now_ms).to_owned()]
    };
    let join_row = |token: &JoinToken| {
        let (used, uses) = (token.uses - token.uses_left.min(token.uses), token.uses);
        let allows = format!("{used} of {uses} machines as {}", token.role.as_str());
        vec![token.token_id.clone(), "joining".to_owned(), allows, token_state(token, now_ms).to_owned()]
    };
    let rows: Vec<_> = tokens.iter().map(row).chain(join_tokens.iter().map(join_row)).collect();
    output::table(&["ID", "NAME", "ALLOWS", "STATE"], &rows)
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
        let join_token = |uses_left, expires_at_ms| JoinToken {
            token_id: "j1".to_owned(),
            secret_sha256: [0; 32],
            role: NodeRole::Agent,
            uses_left,
            uses: 3,
            created_at_ms: 1,
            expires_at_ms,
            revoked_at_ms: None,
        };
        let join_tokens = [join_token(1, 9), join_token(0, 9), join_token(1, 5)];
        let text = list(&tokens, &join_tokens, false, 5);
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split("  ").collect()).collect();
        let ends: Vec<&str> = lines.iter().filter_map(|line| line.last().map(|end| end.trim())).collect();
        assert_eq!(ends, ["valid", "expired", "revoked", "valid", "used up", "expired"]);
        assert!(text.contains("2 of 3 machines as agent"), "{text}");
        assert!(text.contains("ingest+read for p-1") && text.contains("ingest+read for any probe"), "{text}");
        assert!(list(&tokens, &join_tokens, true, 5).contains("\"state\": \"revoked\""));
    }
}
