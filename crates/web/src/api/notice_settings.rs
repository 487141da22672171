//! Who is told, when not, and whether a channel works. Passwords are taken in and never answered.

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
use caelum_roles::{bus::Change, quiet};
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
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<NoticeSettings>, ApiError> {
    let settings = state.store.notice_settings().await?.unwrap_or_default();
    Ok(Json(shown(settings, person.role >= Role::Operator)))
}

/// Sets who is told, and when not. A password that is left out stays.
#[utoipa::path(put, path = "/api/settings/notices", tag = "nodes", request_body = NoticeSettings,
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = NoticeSettings), (status = 400, body = ErrorJson), (status = 403, body = ErrorJson)))]
pub async fn put_notice_settings(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<NoticeSettings>, JsonRejection>,
) -> Result<Json<NoticeSettings>, ApiError> {
    let Json(settings) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    put(&state, &person, settings).await.map(|settings| Json(shown(settings, true)))
}

/// Sets it, for the API and the page alike.
pub async fn put(
    state: &State,
    person: &Person,
    mut settings: NoticeSettings,
) -> Result<NoticeSettings, ApiError> {
    person.require(Role::Operator)?;
    check(&settings).map_err(ApiError::InvalidRequest)?;
    let before = state.store.notice_settings().await?.unwrap_or_default();
    for channel in &mut settings.channels {
        keep_password(channel, &before);
    }
    state.store.put_notice_settings(settings.clone()).await?;
    auth::record(state, &person.name, "notices.set", "channels and quiet hours", "done").await;
    state.bus.publish(Change::SettingsChanged);
    Ok(settings)
}

/// The old password of a mail that still goes to the same server as the same user.
fn keep_password(channel: &mut NoticeChannel, before: &NoticeSettings) {
    let known = before.channels.iter().find(|known| known.name == channel.name);
    if let ChannelKind::Mail { server, user, password: password @ None, .. } = &mut channel.kind
        && let Some(NoticeChannel {
            kind: ChannelKind::Mail { server: old_server, user: old_user, password: old, .. },
            ..
        }) = known
        && (&*server, &*user) == (old_server, old_user)
    {
        password.clone_from(old);
    }
}

/// What is answered: no password, and the secret part of a webhook's address only to who may change it.
pub(crate) fn shown(mut settings: NoticeSettings, may_operate: bool) -> NoticeSettings {
    for channel in &mut settings.channels {
        match &mut channel.kind {
            ChannelKind::Mail { password, .. } => *password = None,
            ChannelKind::Webhook { url, .. } if !may_operate => *url = notify::place_of(url),
            ChannelKind::Webhook { .. } | ChannelKind::Log => {}
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
        notify::check(&channel.kind).map_err(|error| format!("{name}: {error}"))?;
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
    let sent = match notify::Notifier::new(&state.cluster_name, "") {
        Ok(notifier) => notifier.send(&channel.kind, &notice).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let outcome = if sent.is_ok() { "done" } else { "failed" };
    auth::record(state, &person.name, "notices.test", name, outcome).await;
    Ok(sent.err())
}

#[cfg(test)]
mod tests {
    use caelum_model::alert::MailTls;

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
        let channel = NoticeChannel { name: "mail".into(), kind, least: Level::Warning };
        NoticeSettings { channels: vec![channel], quiet_hours: Vec::new() }
    }

    #[test]
    fn a_password_is_never_answered_and_stays_where_it_is_left_out() {
        let before = mail(Some("secret"), "mail.example.net");
        assert_eq!(shown(before.clone(), true), mail(None, "mail.example.net"));
        let mut same = mail(None, "mail.example.net");
        keep_password(&mut same.channels[0], &before);
        assert_eq!(same, before);
        let mut elsewhere = mail(None, "other.example.net");
        keep_password(&mut elsewhere.channels[0], &before);
        assert_eq!(elsewhere, mail(None, "other.example.net"), "it is for that server only");
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
