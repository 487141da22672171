//! Who is told, when not, and whether a channel works. Secrets are taken in, sealed, and never answered.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, rejection::JsonRejection},
};
use caelum_drivers::{notify, random};
use caelum_model::{
    access::Role,
    alert::{ChannelKind, Notice, NoticeChannel, NoticeKind, NoticeSettings, NoticeSubject},
    node::Level,
    wire::ErrorJson,
};
use caelum_roles::{
    bus::Change,
    quiet,
    secrets::{Secrets, is_sealed},
};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{self, Person},
    error::ApiError,
    state::State,
};

/// Most channels, and most quiet hours.
const LISTED_MAX: usize = 32;
/// Longest name of a channel, bytes.
const NAME_MAX: usize = 64;

/// Who is told, and when not.
#[utoipa::path(get, path = "/api/settings/notices", tag = "nodes", security(("token" = ["read"]), ("session" = [])),
    responses((status = 200, body = NoticeSettings)))]
pub async fn notice_settings(
    _: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<NoticeSettings>, ApiError> {
    let settings = state.store.notice_settings().await?.unwrap_or_default();
    state.secrets.follow_for(&settings).await;
    Ok(Json(shown(&state, settings)))
}

/// Sets who is told, and when not. A password that is left out stays, and so does an address that is given as it
/// is answered.
#[utoipa::path(put, path = "/api/settings/notices", tag = "nodes", request_body = NoticeSettings,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = NoticeSettings), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn put_notice_settings(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<NoticeSettings>, JsonRejection>,
) -> Result<Json<NoticeSettings>, ApiError> {
    let Json(settings) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    put(&state, &person, settings).await.map(|settings| Json(shown(&state, settings)))
}

/// Sets it, for the API and the page alike.
pub async fn put(
    state: &State,
    person: &Person,
    settings: NoticeSettings,
) -> Result<NoticeSettings, ApiError> {
    person.require(Role::Operator)?;
    let made = state.secrets.put(&state.store, |before| {
        let mut settings = settings.clone();
        for channel in &mut settings.channels {
            channel.set = None;
            keep_secret(&state.secrets, channel, &before).map_err(ApiError::InvalidRequest)?;
        }
        check(&settings).map_err(ApiError::InvalidRequest)?;
        Ok::<_, ApiError>(settings)
    });
    let settings = made.await?;
    auth::record(state, &person.name, "notices.set", "channels and quiet hours", "done").await;
    state.bus.publish(Change::SettingsChanged);
    Ok(settings)
}

/// What the rest of a webhook's address is shown as.
const HIDDEN: &str = "/…";

/// A webhook's address as it is answered: the rest of it is its secret.
fn shown_url(url: &str) -> String {
    format!("{}{HIDDEN}", notify::place_of(url))
}

/// Takes the secret from what was before where it was not given anew: the password of a mail that still goes to
/// the same server as the same user, and an address that came back as it was answered. What is sealed is taken
/// from nobody but the records.
fn keep_secret(
    secrets: &Secrets,
    channel: &mut NoticeChannel,
    before: &NoticeSettings,
) -> Result<(), String> {
    let known = before.channels.iter().find(|known| known.name == channel.name).map(|known| &known.kind);
    match (&mut channel.kind, known) {
        (
            ChannelKind::Mail { server, user, password: password @ None, .. },
            Some(ChannelKind::Mail { server: old_server, user: old_user, password: old, .. }),
        ) if (&*server, &*user) == (old_server, old_user) => password.clone_from(old),
        (ChannelKind::Webhook { url, .. }, Some(known @ ChannelKind::Webhook { url: old, .. }))
            if url.ends_with(HIDDEN) =>
        {
            let opened = secrets.open(known).map_err(|error| format!("{}: {error}", channel.name))?;
            if let ChannelKind::Webhook { url: opened, .. } = opened
                && *url == shown_url(&opened)
            {
                url.clone_from(old);
            }
        }
        _ => {}
    }
    let is_known = |secret: &str| {
        before.channels.iter().any(|known| match &known.kind {
            ChannelKind::Webhook { url, .. } => url == secret,
            ChannelKind::Mail { password, .. } => password.as_deref() == Some(secret),
            ChannelKind::Log => false,
        })
    };
    match &channel.kind {
        ChannelKind::Webhook { url, .. } if url.ends_with(HIDDEN) => {
            Err(format!("{}: an address that ends with {HIDDEN} is none: give the whole of it", channel.name))
        }
        ChannelKind::Webhook { url: secret, .. } | ChannelKind::Mail { password: Some(secret), .. }
            if is_sealed(secret) && !is_known(secret) =>
        {
            Err(format!("{}: a secret does not begin like one that is sealed", channel.name))
        }
        _ => Ok(()),
    }
}

/// What is answered: whether there is a secret, and where it leads, but never the secret.
pub(crate) fn shown(state: &State, mut settings: NoticeSettings) -> NoticeSettings {
    for channel in &mut settings.channels {
        let opened = state.secrets.open(&channel.kind);
        match &mut channel.kind {
            ChannelKind::Mail { password, .. } => channel.set = Some(password.take().is_some()),
            ChannelKind::Webhook { url, .. } => {
                channel.set = Some(true);
                *url = match opened {
                    Ok(ChannelKind::Webhook { url, .. }) => shown_url(&url),
                    _ => "an address that is sealed under another key".to_owned(),
                };
            }
            ChannelKind::Log => {}
        }
    }
    settings
}

fn check(settings: &NoticeSettings) -> Result<(), String> {
    if settings.channels.len() > LISTED_MAX || settings.quiet_hours.len() > LISTED_MAX {
        return Err(format!("there are more than {LISTED_MAX} channels or quiet hours"));
    }
    for (index, channel) in settings.channels.iter().enumerate() {
        let name = &channel.name;
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
            return Err(format!("a channel's name has 1 to {NAME_MAX} bytes and no control character"));
        }
        if settings.channels[..index].iter().any(|other| other.name == *name) {
            return Err(format!("two channels are called {name}"));
        }
        // What is sealed was looked at when it was taken in.
        let is_kept = matches!(&channel.kind, ChannelKind::Webhook { url, .. } if is_sealed(url));
        if !is_kept {
            notify::check(&channel.kind).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    settings.quiet_hours.iter().try_for_each(quiet::check)
}

/// Which channel to try.
#[derive(Deserialize, utoipa::ToSchema)]
pub struct TestJson {
    /// Its name.
    channel: String,
}

/// Whether a channel works.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TestedJson {
    sent: bool,
    /// What went wrong.
    error: Option<String>,
}

/// Sends a test notice to a channel at once, and says whether that worked.
#[utoipa::path(post, path = "/api/settings/notices/test", tag = "nodes", request_body = TestJson,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = TestedJson), (status = 404, body = ErrorJson)))]
pub async fn test(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<TestJson>, JsonRejection>,
) -> Result<Json<TestedJson>, ApiError> {
    let Json(wanted) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    let error = try_channel(&state, &person, &wanted.channel).await?;
    Ok(Json(TestedJson { sent: error.is_none(), error }))
}

/// Tries a channel, for the API and the page alike; answers what went wrong.
pub async fn try_channel(state: &State, person: &Person, name: &str) -> Result<Option<String>, ApiError> {
    person.require(Role::Operator)?;
    let settings = state.store.notice_settings().await?.unwrap_or_default();
    let channel = settings.channels.into_iter().find(|channel| channel.name == name);
    let channel = channel.ok_or(ApiError::NotFound("channel"))?;
    let now_ms = state.now_ms();
    let notice = Notice {
        notice_id: format!("test-{}", random::secret(12)),
        subject: NoticeSubject::Test,
        subject_id: String::new(),
        kind: NoticeKind::Failure,
        severity: Level::Warning,
        node_id: None,
        place: state.cluster_name.clone(),
        text: format!("This is a test by {}: notices arrive here.", person.name),
        channel: channel.name.clone(),
        created_at_ms: now_ms,
        next_at_ms: now_ms,
        attempts: 1,
        sent_at_ms: None,
        given_up_at_ms: None,
        error: None,
    };
    let sent =
        match (notify::Notifier::new(&state.cluster_name, ""), state.secrets.open_now(&channel.kind).await) {
            (Ok(notifier), Ok(kind)) => {
                notifier.send(&kind, &notice).await.map_err(|error| error.to_string())
            }
            (Err(error), _) => Err(error.to_string()),
            (_, Err(error)) => Err(error.to_string()),
        };
    let outcome = if sent.is_ok() { "done" } else { "failed" };
    auth::record(state, &person.name, "notices.test", name, outcome).await;
    Ok(sent.err())
}

#[cfg(test)]
mod tests {
    use caelum_model::alert::MailTls;
    use caelum_roles::master_key::{MasterKey, make_master_key};
    use caelum_store::Store;

    use super::*;

    fn mail(password: Option<&str>, server: &str) -> NoticeSettings {
        let kind = ChannelKind::Mail {
            server: server.into(),
            port: None,
            from: "a@example.net".into(),
            to: vec!["b@example.net".into()],
            user: Some("u".into()),
            password: password.map(str::to_owned),
            tls: MailTls::Tls,
        };
        let channel = NoticeChannel { name: "mail".into(), kind, least: Level::Warning, set: None };
        NoticeSettings { channels: vec![channel], quiet_hours: Vec::new() }
    }

    fn hook(url: &str) -> NoticeChannel {
        let kind = ChannelKind::Webhook { url: url.into(), form: Default::default() };
        NoticeChannel { name: "hook".into(), kind, least: Level::Warning, set: None }
    }

    #[tokio::test]
    async fn a_secret_stays_where_it_is_not_given_anew_and_is_nobody_elses() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(&folder.path().join("caelum.db")).expect("opens"));
        let secrets = Secrets::new(MasterKey::in_memory(store, &make_master_key()).expect("a key"));
        let mut before = mail(Some("secret"), "mail.example.net");
        before.channels.push(hook("https://chat.example.net/hooks/t0ken"));
        secrets.seal(&mut before);
        let kept = |channel: &NoticeChannel| {
            let mut channel = channel.clone();
            keep_secret(&secrets, &mut channel, &before).map(|()| channel)
        };
        let same = mail(None, "mail.example.net").channels.remove(0);
        assert_eq!(kept(&same).as_ref(), Ok(&before.channels[0]));
        let elsewhere = mail(None, "other.example.net").channels.remove(0);
        assert_eq!(kept(&elsewhere).as_ref(), Ok(&elsewhere), "it is for that server only");
        assert_eq!(kept(&hook("https://chat.example.net/…")).as_ref(), Ok(&before.channels[1]));
        assert!(kept(&hook("https://chat.example.org/…")).is_err());
        assert_eq!(kept(&before.channels[1]).as_ref(), Ok(&before.channels[1]), "as the records have it");
        assert!(kept(&hook("sealed:1:AAAA")).is_err(), "made up");
    }

    #[test]
    fn names_are_needed_and_are_different() {
        let mut settings = mail(None, "m");
        assert!(check(&settings).is_ok());
        settings.channels.push(settings.channels[0].clone());
        assert!(check(&settings).is_err());
        settings.channels[1].name.clear();
        assert!(check(&settings).is_err());
    }
}
