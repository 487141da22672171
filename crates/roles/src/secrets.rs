//! Secrets of settings, sealed where they are kept: the rest of a webhook's address, the password of a mail server.
//!
//! Records are read by more than the servers: by whoever has a copy, a dump or a replica. So what lets somebody
//! speak in our name is sealed there under a key that comes from the master key, which is in no record; and bound
//! to what it is for, so that whoever writes into the records cannot have a password sent elsewhere.
//!
//! What an earlier version kept as it was is sealed by [`Secrets::seal_kept`] at the next start.

use std::sync::Arc;

use caelum_model::alert::{ChannelKind, NoticeSettings};
use caelum_store::{Store, StoreError};

use crate::{
    master_key::{CURRENT, Cipher, MasterKey},
    vault::VaultError,
};

/// What a sealed text begins with; no address and no password that is taken in does.
const SEALED: &str = "sealed:1:";
/// How often settings are sealed while the master key is replaced.
const TRIES: usize = 8;

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the {0} is sealed in the records and does not open with this server's master key (secrets/master.key, \
     cluster.cluster_secret): set it again"
)]
pub struct NotOpened(&'static str);

/// Seals and opens.
pub struct Secrets {
    key: Arc<MasterKey>,
}

/// Whether a text is sealed.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(SEALED)
}

impl Secrets {
    /// Secrets under this master key, and whichever replaces it.
    pub fn new(key: Arc<MasterKey>) -> Self {
        Self { key }
    }

    /// What they are sealed under.
    pub fn key(&self) -> &Arc<MasterKey> {
        &self.key
    }

    /// Seals what is not yet sealed; answers whether there was something.
    pub fn seal(&self, settings: &mut NoticeSettings) -> bool {
        let held = self.key.held();
        let mut is_changed = false;
        each(settings, |about, text| {
            if !is_sealed(text) {
                *text = sealed(&held.settings, about, text);
                is_changed = true;
            }
        });
        is_changed
    }

    /// A channel as it can be used.
    pub fn open(&self, kind: &ChannelKind) -> Result<ChannelKind, NotOpened> {
        let held = self.key.held();
        let mut opened = kind.clone();
        let mut is_open = true;
        each_of(&mut opened, &mut |about, text| match opened_text(&held.settings, about, text) {
            Some(plain) => *text = plain,
            None => is_open = false,
        });
        let what = match kind {
            ChannelKind::Mail { .. } => "password of this mail server",
            ChannelKind::Webhook { .. } | ChannelKind::Log => "address of this webhook",
        };
        is_open.then_some(opened).ok_or(NotOpened(what))
    }

    /// The same, with a look at whether the master key was replaced where it does not open.
    pub async fn open_now(&self, kind: &ChannelKind) -> Result<ChannelKind, NotOpened> {
        match self.open(kind) {
            Ok(opened) => Ok(opened),
            Err(_) => {
                self.follow().await;
                self.open(kind)
            }
        }
    }

    /// Takes up a new master key where something of this does not open.
    pub async fn follow_for(&self, settings: &NoticeSettings) {
        if settings.channels.iter().any(|channel| self.open(&channel.kind).is_err()) {
            self.follow().await;
        }
    }

    async fn follow(&self) {
        if let Err(error) = self.key.take_up().await {
            tracing::debug!(code = "secrets.key_not_taken_up", %error, "secrets stay sealed for now");
        }
    }

    /// Makes settings of those in the records and stores them sealed. Made again where the master key was
    /// replaced meanwhile, so that nothing is left under the old one.
    pub async fn put<E: From<StoreError> + From<VaultError>>(
        &self,
        store: &Store,
        mut make: impl FnMut(NoticeSettings) -> Result<NoticeSettings, E>,
    ) -> Result<NoticeSettings, E> {
        for _ in 0..TRIES {
            // Seen before anything is sealed.
            let stamp = self.key.stamp().await?;
            let before = store.notice_settings().await?.unwrap_or_default();
            let mut settings = make(before)?;
            self.seal(&mut settings);
            if store.put_notice_settings_under(settings.clone(), CURRENT, stamp).await? {
                return Ok(settings);
            }
        }
        Err(VaultError::Contended.into())
    }

    /// Seals what is kept in the records as it was. Servers that do so at once do the same.
    pub async fn seal_kept(&self, store: &Store) -> Result<(), VaultError> {
        if let Some(mut settings) = store.notice_settings().await?
            && self.seal(&mut settings)
        {
            self.put(store, Ok::<_, VaultError>).await?;
            tracing::info!(code = "secrets.sealed", "secrets of notices are sealed in the records now");
        }
        Ok(())
    }
}

/// Seals under another key what the old one opens; answers how much it does not, which stays as it is.
pub(crate) fn reseal(settings: &mut NoticeSettings, old: &Cipher, new: &Cipher) -> usize {
    let mut not_opened = 0;
    each(settings, |about, text| match opened_text(old, about, text) {
        Some(plain) => *text = sealed(new, about, &plain),
        None => not_opened += 1,
    });
    not_opened
}

/// Every secret of settings, and what it is bound to.
fn each(settings: &mut NoticeSettings, mut with: impl FnMut(&str, &mut String)) {
    for channel in &mut settings.channels {
        each_of(&mut channel.kind, &mut with);
    }
}

fn each_of(kind: &mut ChannelKind, with: &mut impl FnMut(&str, &mut String)) {
    match kind {
        ChannelKind::Webhook { url, .. } => with(URL, url),
        ChannelKind::Mail { server, user, password: Some(password), .. } => {
            with(&of_mail(server, user.as_deref()), password);
        }
        ChannelKind::Mail { password: None, .. } | ChannelKind::Log => {}
    }
}

fn sealed(cipher: &Cipher, about: &str, text: &str) -> String {
    format!("{SEALED}{}", cipher.seal(about, text.as_bytes()))
}

fn opened_text(cipher: &Cipher, about: &str, text: &str) -> Option<String> {
    match text.strip_prefix(SEALED) {
        None => Some(text.to_owned()),
        Some(sealed) => String::from_utf8(cipher.open(about, sealed)?).ok(),
    }
}

/// What a seal of an address is bound to.
const URL: &str = "webhook url";

/// What a seal of a password is bound to: to whom it is said, and as whom.
fn of_mail(server: &str, user: Option<&str>) -> String {
    format!("mail password {server} {}", user.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use caelum_model::{
        alert::{MailTls, NoticeChannel, WebhookForm},
        node::Level,
    };

    use super::*;
    use crate::master_key::make_master_key;

    fn records() -> (tempfile::TempDir, Arc<Store>) {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::open(&folder.path().join("caelum.db")).expect("opens");
        (folder, Arc::new(store))
    }

    fn secrets(store: &Arc<Store>) -> Secrets {
        Secrets::new(MasterKey::in_memory(Arc::clone(store), &make_master_key()).expect("a key"))
    }

    fn settings() -> NoticeSettings {
        let channel =
            |name: &str, kind| NoticeChannel { name: name.into(), kind, least: Level::Warning, set: None };
        let url = "https://chat.example.net/hooks/t0ken".to_owned();
        let mail = ChannelKind::Mail {
            server: "mail.example.net".into(),
            port: None,
            from: "a@example.net".into(),
            to: vec!["b@example.net".into()],
            user: Some("u".into()),
            password: Some("passw0rd".into()),
            tls: MailTls::Tls,
        };
        let hook = ChannelKind::Webhook { url, form: WebhookForm::Slack };
        let channels = vec![channel("hook", hook), channel("mail", mail), channel("log", ChannelKind::Log)];
        NoticeSettings { channels, quiet_hours: Vec::new() }
    }

    #[tokio::test]
    async fn what_is_sealed_shows_nothing_and_opens_again() {
        let (_folder, store) = records();
        let secrets = secrets(&store);
        let mut sealed = settings();
        assert!(secrets.seal(&mut sealed));
        let text = format!("{sealed:?}");
        assert!(!text.contains("t0ken") && !text.contains("passw0rd"), "{text}");
        for (sealed, plain) in sealed.channels.iter().zip(settings().channels) {
            assert_eq!(secrets.open(&sealed.kind).expect("opens"), plain.kind);
        }
        let before = sealed.clone();
        assert!(!secrets.seal(&mut sealed), "it is sealed once");
        assert_eq!(sealed, before);
    }

    #[tokio::test]
    async fn neither_another_key_nor_another_server_opens_it() {
        let mut sealed = settings();
        let (_folder, store) = records();
        let (secrets, other) = (secrets(&store), secrets(&store));
        secrets.seal(&mut sealed);
        assert!(other.open(&sealed.channels[0].kind).is_err());
        let error = other.open(&sealed.channels[1].kind).expect_err("another key").to_string();
        assert!(error.contains("set it again"), "{error}");
        if let ChannelKind::Mail { server, .. } = &mut sealed.channels[1].kind {
            *server = "mail.example.org".into();
        }
        assert!(secrets.open(&sealed.channels[1].kind).is_err(), "it is for that server only");
    }

    #[tokio::test]
    async fn what_an_earlier_version_kept_as_it_was_is_sealed() {
        let (_folder, store) = records();
        store.put_notice_settings(settings()).await.expect("kept");
        let secrets = secrets(&store);
        secrets.seal_kept(&store).await.expect("sealed");
        let kept = store.notice_settings().await.expect("read").expect("there");
        assert!(!format!("{kept:?}").contains("t0ken"));
        secrets.seal_kept(&store).await.expect("nothing to do");
        assert_eq!(store.notice_settings().await.expect("read"), Some(kept));
    }
}
