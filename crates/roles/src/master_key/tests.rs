//! A key that is replaced while servers use it, in one file that several handles share.

use std::sync::{
    Mutex as Kept,
    atomic::{AtomicBool, Ordering},
};

use caelum_engine::master_key::{Server, Wait};
use caelum_model::{
    alert::{ChannelKind, NoticeChannel, NoticeSettings, WebhookForm},
    cluster::ClusterKey,
    node::Level,
};

use super::{rotate::RotationError, *};
use crate::{
    secrets::Secrets,
    vault::{SealedAuthority, Vault},
};

/// A server: its file with the key, and what it holds.
struct Home {
    id: NodeId,
    file: Arc<Kept<String>>,
    is_disk_full: Arc<AtomicBool>,
    key: Arc<MasterKey>,
    vault: Vault,
    secrets: Secrets,
}

impl Home {
    /// Starts with what is in its file; the records are open already.
    async fn start(store: &Arc<Store>, name: &str, file: &Arc<Kept<String>>) -> Result<Self, VaultError> {
        let is_disk_full = Arc::new(AtomicBool::new(false));
        let (kept, full) = (Arc::clone(file), Arc::clone(&is_disk_full));
        let keep: Keep = Arc::new(move |secret| {
            if full.load(Ordering::Relaxed) {
                return Err(io::Error::other("no space left"));
            }
            *kept.lock().expect("no panic") = secret.to_owned();
            Ok(())
        });
        let secret = file.lock().expect("no panic").clone();
        let key = MasterKey::new(Arc::clone(store), &secret, KeyPlace::File, keep)?;
        key.take_up().await?;
        let vault = Vault::new(Arc::clone(store), Arc::clone(&key));
        vault
            .establish_authority(&SealedAuthority { certificate_pem: "ca".into(), key_pem: "its key".into() })
            .await?;
        vault.establish_keys(&[ClusterKey { generation: 1, secret: "first".into() }]).await?;
        key.stamp_first().await?;
        let id = NodeId::parse(name).expect("an id");
        key.introduce(&id).await?;
        let (secrets, file) = (Secrets::new(Arc::clone(&key)), Arc::clone(file));
        Ok(Self { id, file, is_disk_full, key, vault, secrets })
    }

    fn server(&self, is_active: bool) -> Server {
        Server { node_id: self.id.clone(), name: self.id.to_string(), is_active }
    }

    async fn set_hook(&self, store: &Store, url: &str) {
        let put = self.secrets.put(store, |_| Ok::<_, VaultError>(hook(url)));
        put.await.expect("stored");
    }

    /// The address of the only channel.
    async fn opened(&self, store: &Store) -> String {
        let settings = store.notice_settings().await.expect("read").expect("there");
        match self.secrets.open_now(&settings.channels[0].kind).await.expect("opens") {
            ChannelKind::Webhook { url, .. } => url,
            other => panic!("{other:?}"),
        }
    }
}

fn hook(url: &str) -> NoticeSettings {
    let kind = ChannelKind::Webhook { url: url.into(), form: WebhookForm::Slack };
    let channel = NoticeChannel { name: "hook".into(), kind, least: Level::Warning, set: None };
    NoticeSettings { channels: vec![channel], quiet_hours: Vec::new() }
}

fn records() -> (tempfile::TempDir, Arc<Store>) {
    let folder = tempfile::tempdir().expect("a directory");
    let store = Store::open(&folder.path().join("caelum.db")).expect("opens");
    (folder, Arc::new(store))
}

fn file(secret: &str) -> Arc<Kept<String>> {
    Arc::new(Kept::new(secret.to_owned()))
}

/// Two servers that hold the same key.
async fn two(store: &Arc<Store>, secret: &str) -> [Home; 2] {
    let a = Home::start(store, "n-a", &file(secret)).await.expect("starts");
    [a, Home::start(store, "n-b", &file(secret)).await.expect("starts")]
}

#[tokio::test]
async fn servers_that_run_go_on_through_a_rotation_and_keep_the_new_key_by_themselves() {
    let (_folder, store) = records();
    let old = make_master_key();
    let [a, b] = two(&store, &old).await;
    a.set_hook(&store, "https://a.example.net/t0ken").await;
    let servers = [a.server(true), b.server(true)];
    let rotated = a.key.rotate(None, "ada", 5, &servers, false).await.expect("replaced");
    assert_eq!((rotated.generation, rotated.not_opened), (2, 0));
    let new = a.file.lock().expect("no panic").clone();
    assert!(new != old && *b.file.lock().expect("no panic") == old, "b has not looked yet");

    // Whatever b does next, it does under the new key.
    b.vault.replace_keys(&[ClusterKey { generation: 2, secret: "second".into() }]).await.expect("revokes");
    assert_eq!(*b.file.lock().expect("no panic"), new);
    assert_eq!(a.vault.keys().await.expect("read")[0].secret, "second");
    b.set_hook(&store, "https://b.example.net/t0ken").await;
    assert_eq!(a.opened(&store).await, "https://b.example.net/t0ken");
    let state = b.key.state().await.expect("told");
    assert_eq!(
        (state.generation, state.changed_by.as_deref(), state.is_handing_over),
        (2, Some("ada"), true)
    );
    assert!(servers.iter().all(|server| state.wait(server).is_none()));

    assert_eq!(b.key.finish(&servers, false).await.expect("ended").0, 2);
    assert!(matches!(b.key.finish(&servers, false).await, Err(RotationError::NothingUnderWay)));
    for late in [Home::start(&store, "n-c", &file(&old)).await, Home::start(&store, "n-c", &file(&old)).await]
    {
        let error = late.err().expect("the old key opens nothing");
        assert!(matches!(error, VaultError::Replaced { generation: 2, .. }), "{error}");
        assert!(error.to_string().contains("1970-01-01"), "{error}");
    }
    let again = Home::start(&store, "n-a", &a.file).await.expect("starts with the new one");
    assert_eq!(again.vault.authority().await.expect("opens").expect("there").key_pem, "its key");
}

#[tokio::test]
async fn a_server_that_was_killed_at_any_write_of_a_rotation_starts_again_with_what_it_has() {
    let (_folder, store) = records();
    let old = make_master_key();
    let a = Home::start(&store, "n-a", &file(&old)).await.expect("starts");
    a.set_hook(&store, "https://a.example.net/t0ken").await;
    // Before the transaction nothing is different: the key in its file is the one that opens.
    // After it, and before the file is written:
    a.is_disk_full.store(true, Ordering::Relaxed);
    a.key.rotate(None, "ada", 5, &[a.server(true)], false).await.expect("the records are written");
    assert_eq!(*a.file.lock().expect("no panic"), old);
    let state = a.key.state().await.expect("told");
    assert_eq!(state.wait(&a.server(true)), Some(Wait::Memory(KeyPlace::File)));
    assert!(matches!(a.key.finish(&[a.server(true)], false).await, Err(RotationError::Waiting(_))));
    assert_eq!(a.opened(&store).await, "https://a.example.net/t0ken", "it goes on in memory");
    let again = Home::start(&store, "n-a", &a.file).await.expect("the hand-over opens with the old key");
    assert_eq!(again.opened(&store).await, "https://a.example.net/t0ken");
    assert_ne!(*a.file.lock().expect("no panic"), old, "kept now");
    // After the file is written, and before who holds what is:
    store
        .replace_fact(HOLDERS, store.fact(HOLDERS).await.expect("read").expect("there"), "{}".into())
        .await
        .expect("forgotten");
    let again = Home::start(&store, "n-a", &a.file).await.expect("starts with the new one");
    let (number, shut_out) = again.key.finish(&[again.server(true)], false).await.expect("nobody waits");
    assert_eq!((number, shut_out.len()), (2, 0));
    // One whose disk has room again keeps it without a restart.
    a.is_disk_full.store(false, Ordering::Relaxed);
    assert!(!a.key.take_up().await.expect("looked"));
    assert_eq!(a.key.state().await.expect("told").wait(&a.server(true)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rotations_at_once_one_wins_and_the_other_is_told() {
    let (_folder, store) = records();
    let old = make_master_key();
    let [a, b] = two(&store, &old).await;
    a.set_hook(&store, "https://a.example.net/t0ken").await;
    let servers = [a.server(true), b.server(true)];
    for number in 2..8 {
        let (one, other, revoked) = tokio::join!(
            a.key.rotate(None, "ada", 5, &servers, false),
            b.key.rotate(None, "bob", 5, &servers, false),
            async {
                let key = ClusterKey { generation: 1, secret: format!("revoked {number}") };
                b.vault.replace_keys(&[key]).await
            },
        );
        revoked.expect("no revocation is lost");
        let refusals =
            [&one, &other].into_iter().filter(|done| matches!(done, Err(RotationError::UnderWay { .. })));
        assert_eq!(refusals.count(), 1, "{one:?} {other:?}");
        for home in [&a, &b] {
            assert_eq!(home.vault.keys().await.expect("read")[0].secret, format!("revoked {number}"));
            assert_eq!(home.opened(&store).await, "https://a.example.net/t0ken");
        }
        assert_eq!(*a.file.lock().expect("no panic"), *b.file.lock().expect("no panic"));
        assert_eq!(a.key.finish(&servers, false).await.expect("ended").0, number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_stored_during_a_rotation_open_afterwards() {
    let (_folder, store) = records();
    let old = make_master_key();
    let [a, b] = two(&store, &old).await;
    let servers = [a.server(true), b.server(true)];
    for number in 0..12 {
        let url = format!("https://b.example.net/{number}");
        let (rotated, ()) =
            tokio::join!(a.key.rotate(None, "ada", 5, &servers, false), b.set_hook(&store, &url));
        rotated.expect("replaced");
        b.key.take_up().await.expect("looked");
        a.key.finish(&servers, false).await.expect("ended");
        assert_eq!(a.opened(&store).await, url);
        assert_eq!(b.opened(&store).await, url);
    }
}

#[tokio::test]
async fn a_hand_over_ends_only_when_no_server_would_be_shut_out_unless_it_is_forced() {
    let (_folder, store) = records();
    let old = make_master_key();
    let [a, b] = two(&store, &old).await;
    let older =
        Server { node_id: NodeId::parse("n-old").expect("an id"), name: "older".into(), is_active: true };
    let refused = a.key.rotate(None, "ada", 5, &[a.server(true), older.clone()], false).await;
    let text = refused.expect_err("it would stop").to_string();
    assert!(text.contains("older") && text.contains("update it"), "{text}");
    a.key.rotate(None, "ada", 5, &[a.server(true), older], true).await.expect("forced");
    let text =
        a.key.finish(&[a.server(true), b.server(false)], false).await.expect_err("b is away").to_string();
    assert!(text.contains("n-b") && text.contains("start it"), "{text}");
    let (_, shut_out) = a.key.finish(&[a.server(true), b.server(false)], true).await.expect("forced");
    assert_eq!(shut_out.len(), 1);
    // It runs on with what is in its memory, and can decide nothing any more.
    assert!(matches!(b.key.take_up().await, Err(VaultError::Replaced { .. })));
    assert!(matches!(b.vault.replace_keys(&[]).await, Err(VaultError::Replaced { .. })));
}

#[tokio::test]
async fn a_key_that_is_set_elsewhere_must_be_given_and_is_held_in_memory_until_it_is_set_there() {
    let (_folder, store) = records();
    let (old, new) = (make_master_key(), make_master_key());
    let keep: Keep = Arc::new(|_| panic!("nothing is written where the configuration has the key"));
    let start = |secret: &str| {
        MasterKey::new(Arc::clone(&store), secret, KeyPlace::Configuration, Arc::clone(&keep)).expect("a key")
    };
    let key = start(&old);
    let own = NodeId::parse("n-a").expect("an id");
    key.introduce(&own).await.expect("told");
    let server = [Server { node_id: own.clone(), name: "a".into(), is_active: true }];
    let error =
        key.rotate(None, "ada", 5, &server, false).await.expect_err("nobody would have it").to_string();
    assert!(error.contains("cluster.cluster_secret") && error.contains("--key-file"), "{error}");
    assert!(matches!(
        key.rotate(Some("short"), "ada", 5, &server, false).await,
        Err(RotationError::Vault(VaultError::TooShort))
    ));
    assert!(matches!(key.rotate(Some(&old), "ada", 5, &server, false).await, Err(RotationError::UsedBefore)));
    key.rotate(Some(&new), "ada", 5, &server, false).await.expect("replaced");
    assert_eq!(key.secret(), new);
    let text = key.finish(&server, false).await.expect_err("it would not start again").to_string();
    assert!(text.contains("set cluster.cluster_secret"), "{text}");
    assert_eq!(start(&old).standing().await.expect("looked"), Standing::Before { generation: 2 });
    let again = start(&new);
    again.introduce(&own).await.expect("told");
    again.finish(&server, false).await.expect("it starts with the new key");
    let useless = Standing::Useless { generation: 2, changed_at_ms: Some(5), was_current: true };
    assert_eq!(start(&old).standing().await.expect("looked"), useless);
}

#[tokio::test]
async fn a_server_alone_goes_by_the_key_that_its_owner_put_there() {
    let (_folder, store) = records();
    let first = MasterKey::in_memory(Arc::clone(&store), &make_master_key()).expect("a key");
    first.claim_alone().await.expect("claimed");
    let other = MasterKey::in_memory(Arc::clone(&store), &make_master_key()).expect("a key");
    assert!(matches!(other.take_up().await, Err(VaultError::NotOurs(_))));
    other.claim_alone().await.expect("it is the owner's word");
    assert_eq!(other.state().await.expect("told").generation, 2);
    assert!(matches!(other.standing().await.expect("looked"), Standing::Current { generation: 2, .. }));
}
