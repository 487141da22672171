//! Whole conversations through a directory: who is admitted, who is refused and why, and who gets no answer at all.

use std::{fs, path::Path, sync::Arc, time::Duration};

use caelum_drivers::{clock::ManualClock, tls};
use caelum_engine::{enrol::AccessList, mailbox::Request};
use caelum_model::{
    cluster::{Ceiling, NodeRole},
    id::NodeId,
    join::{Admission, Invitation, JoinAnswer, JoinRequest, ServerGrant},
};
use caelum_roles::{
    bus::Bus,
    enrol::{
        self, JoinFailure, Registrar, invitation, join_by_mailbox,
        mailbox::{Asking, Outcome},
        new_key,
    },
    mailbox::{Loop, Parts, View},
};
use caelum_store::{Mailbox, MailboxAddress, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NOW_MS: i64 = 1_700_000_000_000;
const PATIENCE: Duration = Duration::from_secs(60);
const MASTER: &str = "the master key of this cluster, which nobody may read";

struct Site {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    store: Arc<Store>,
    registrar: Arc<Registrar>,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("shared")).expect("made");
        let clock = Arc::new(ManualClock::new(NOW_MS));
        let store = Arc::new(Store::open(&folder.path().join("caelum.db")).expect("opens"));
        let registrar = Registrar::open(enrol::Parts {
            store: Arc::clone(&store),
            authority: Arc::new(tls::Authority::create("Caelum test").expect("made")),
            clock: Arc::clone(&clock) as _,
            node_id: NodeId::parse("n-server").expect("an id"),
            cluster_id: "c-1".into(),
            cluster_name: "home".into(),
            keys: vec![new_key(1)],
            servers: vec!["192.0.2.1:8080".into()],
            access: AccessList::parse(["198.51.100.0/24"]).expect("a network"),
            persist_keys: Arc::new(|_| Ok(())),
            grant: Some(Arc::new(|| ServerGrant {
                master_key: MASTER.into(),
                store: "postgres://db/caelum".into(),
                queue: None,
                coordination: None,
            })),
        });
        let registrar = registrar.await.expect("opens");
        Self { folder, clock, store, registrar }
    }

    fn address(&self) -> String {
        format!("file:{}", self.folder.path().join("shared").display())
    }

    async fn mailbox(&self) -> Mailbox {
        let address: MailboxAddress = self.address().parse().expect("an address");
        Mailbox::open(&address, "c-1").await.expect("opens")
    }

    /// Begins to look.
    async fn look(&self) -> watch::Receiver<View> {
        let (running, view) = Loop::new(Parts {
            mailbox: self.mailbox().await,
            registrar: Arc::clone(&self.registrar),
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock) as _,
            bus: Bus::default(),
        });
        tokio::spawn(running.run(CancellationToken::new()));
        view
    }

    async fn invite(&self, role: NodeRole) -> Invitation {
        let servers = vec!["192.0.2.1:8080".to_owned()];
        let mailbox = Some(self.address());
        let made = self.registrar.invite_through(servers, mailbox, role, 1, NOW_MS + 60_000).await;
        invitation::parse(&made.expect("made").1).expect("reads")
    }
}

fn request(key: &tls::NodeKey, name: &str, invitation: &Invitation, role: NodeRole) -> JoinRequest {
    let node_id = NodeId::parse(name).expect("an id");
    JoinRequest {
        csr_pem: key.csr_pem(&node_id).expect("made"),
        node_id,
        hostname: "edge".into(),
        role,
        ceiling: Ceiling::Observe,
        version: "1".into(),
        admission: Admission::Token {
            token_id: invitation.token_id.clone(),
            secret: invitation.secret.clone(),
        },
    }
}

async fn join(name: &str, invitation: &Invitation, role: NodeRole) -> Result<JoinAnswer, JoinFailure> {
    let key = tls::NodeKey::generate().expect("made");
    join_by_mailbox(invitation, &request(&key, name, invitation, role), PATIENCE).await
}

/// Everything that lies in a directory, as one text.
fn all_in(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).expect("lists") {
        let path = entry.expect("lists").path();
        all.push_str(&path.display().to_string());
        match path.is_dir() {
            true => all.push_str(&all_in(&path)),
            false => all.push_str(&String::from_utf8_lossy(&fs::read(&path).unwrap_or_default())),
        }
    }
    all
}

#[tokio::test]
async fn a_machine_that_reaches_no_server_becomes_one_and_the_mailbox_tells_nobody_how() {
    let site = Site::new().await;
    let view = site.look().await;
    let invitation = site.invite(NodeRole::Server).await;
    let answer = join("n-new", &invitation, NodeRole::Server).await.expect("admitted");
    assert_eq!(answer.grant.expect("is a server").master_key, MASTER);
    assert_eq!(answer.cluster_id, "c-1");
    assert_eq!(view.borrow().answered, 1);
    let seen = all_in(&site.folder.path().join("shared"));
    assert!(seen.contains("answers"), "{seen}");
    let mailbox = invitation.mailbox.clone().expect("names one");
    for secret in [MASTER, &invitation.secret, &mailbox.key, "edge", "BEGIN"] {
        assert!(!seen.contains(secret), "{secret} can be read");
    }
    let audit = site.store.audit_log(i64::MAX, 10).await.expect("read");
    let line = audit.iter().find(|line| line.action == "node.join").expect("is written down");
    assert!(line.actor.contains(&invitation.token_id) && line.outcome == "done", "{line:?}");
    // An agent is given nothing of a server's.
    let invitation = site.invite(NodeRole::Agent).await;
    assert!(join("n-agent", &invitation, NodeRole::Agent).await.expect("admitted").grant.is_none());
}

#[tokio::test]
async fn whoever_is_refused_is_told_why_and_nothing_else() {
    let site = Site::new().await;
    site.look().await;
    let used = site.invite(NodeRole::Agent).await;
    join("n-first", &used, NodeRole::Agent).await.expect("admitted");
    let revoked = site.invite(NodeRole::Agent).await;
    site.store.revoke_join_token(revoked.token_id.clone(), NOW_MS).await.expect("revoked");
    let guessed = Invitation { secret: "a guess".into(), ..site.invite(NodeRole::Agent).await };
    let lesser = site.invite(NodeRole::Agent).await;
    for (name, invitation, role, expected) in [
        ("n-second", &used, NodeRole::Agent, "join_token_used_up"),
        ("n-second", &revoked, NodeRole::Agent, "join_token_revoked"),
        ("n-second", &guessed, NodeRole::Agent, "join_token_unknown"),
        ("n-second", &lesser, NodeRole::Server, "join_role_not_allowed"),
        ("n-first", &lesser, NodeRole::Agent, "node_id_taken"),
    ] {
        match join(name, invitation, role).await {
            Err(JoinFailure::Refused { code, message, .. }) => {
                assert_eq!(code, expected);
                assert!(!message.contains(MASTER));
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
    let late = site.invite(NodeRole::Agent).await;
    site.clock.advance(Duration::from_secs(61));
    let refused = join("n-late", &late, NodeRole::Agent).await.expect_err("it is over");
    assert!(refused.to_string().contains("expired"), "{refused}");
}

#[tokio::test]
async fn a_request_that_is_put_back_gets_no_second_answer() {
    let site = Site::new().await;
    let mut view = site.look().await;
    view.wait_for(|view| view.looked_at_ms.is_some()).await.expect("it looks");
    let (invitation, mailbox) = (site.invite(NodeRole::Agent).await, site.mailbox().await);
    let key = tls::NodeKey::generate().expect("made");
    let asked = request(&key, "n-1", &invitation, NodeRole::Agent);
    let sign = mailbox.sign().await.expect("asked").expect("hangs");
    let place = invitation.mailbox.clone().expect("names one");
    let (side, text) = Asking::begin(&invitation, &place.key, &sign, &asked).expect("sealed");
    assert!(mailbox.post(1, &text).await.expect("left"));
    view.wait_for(|view| view.answered == 1).await.expect("it is answered");
    let answers = site.folder.path().join("shared/c-1-join/answers");
    fs::remove_file(answers.join(side.request_id())).expect("was there");
    // The same again, and junk that names the right sign.
    assert!(mailbox.post(2, &text).await.expect("left"));
    let junk = Request::new("r1".into(), "t1".into(), sign, "AAAA".into()).to_text();
    assert!(mailbox.post(3, &junk).await.expect("left"));
    assert!(mailbox.post(4, "hello").await.expect("left"));
    view.wait_for(|view| view.ignored == 3).await.expect("they are dropped");
    assert_eq!(mailbox.answer(side.request_id()).await.expect("asked"), None);
    assert_eq!(view.borrow().answered, 1);
}

#[tokio::test]
async fn an_answer_that_was_changed_is_not_used() {
    let site = Site::new().await;
    let (invitation, mailbox) = (site.invite(NodeRole::Agent).await, site.mailbox().await);
    mailbox.hang_out("sign").await.expect("hung out");
    let asking = tokio::spawn({
        let invitation = invitation.clone();
        async move { join("n-1", &invitation, NodeRole::Agent).await }
    });
    let text = loop {
        let taken = mailbox.take(0, 8).await.expect("taken");
        if let Some(text) = taken.into_iter().next() {
            break text;
        }
        tokio::task::yield_now().await;
    };
    let request: Request = serde_json::from_str(&text).expect("reads");
    let opened = site.registrar.open_mail(&request, &text).expect("opens");
    let outcome = Outcome::Refused { code: "x".into(), message: "y".into() };
    let mut answer = site.registrar.seal_mail(&opened, &outcome).expect("sealed").into_bytes();
    let at = answer.len() / 2;
    answer[at] = if answer[at] == b'A' { b'B' } else { b'A' };
    let answer = String::from_utf8(answer).expect("letters");
    mailbox.reply(opened.request_id(), &answer).await.expect("left");
    let refused = asking.await.expect("no panic").expect_err("it was changed");
    assert!(matches!(refused, JoinFailure::NotTrusted(_)), "{refused}");
}

#[tokio::test]
async fn where_nobody_looks_the_machine_says_so() {
    let site = Site::new().await;
    let invitation = site.invite(NodeRole::Agent).await;
    let key = tls::NodeKey::generate().expect("made");
    let asked = request(&key, "n-1", &invitation, NodeRole::Agent);
    let soon = Duration::from_millis(1);
    let nobody = join_by_mailbox(&invitation, &asked, soon).await.expect_err("nobody is there");
    assert!(nobody.to_string().contains("nobody answered in the mailbox"), "{nobody}");
    assert!(nobody.to_string().contains("no server has looked into it"), "{nobody}");
    site.mailbox().await.hang_out("sign").await.expect("hung out");
    let silent = join_by_mailbox(&invitation, &asked, soon).await.expect_err("nobody answers");
    assert!(silent.is_transient() && silent.to_string().contains("did not answer"), "{silent}");
}
