//! How machines become nodes and cease to be, over real TLS on loopback.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use caelum_drivers::{
    exchange::Peer,
    tls::{self, NodeKey},
};
use caelum_engine::enrol::AccessList;
use caelum_model::{
    access::Scope,
    cluster::{Ceiling, NodeRole},
    id::NodeId,
    join::{Admission, Invitation, JoinAnswer, JoinRequest},
};
use caelum_roles::enrol::{self, JoinFailure, Newcomer, invitation};
use caelum_web::{
    cluster_adopt,
    serve::{self, Tls},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fixture::{Fixture, NOW_MS};

/// A server that listens; it stops when this is dropped.
struct Listening {
    fixture: Fixture,
    address: SocketAddr,
    tls: watch::Sender<Tls>,
    _stop: DropGuard,
}

impl Listening {
    async fn new() -> Self {
        Self::with(AccessList::default()).await
    }

    async fn with(access: AccessList) -> Self {
        let fixture = Fixture::admitting(access).await;
        let tls = watch::Sender::new(tls_of(&fixture));
        let (address, stop) = listen(fixture.app.clone(), tls.subscribe()).await;
        fixture.registrar.set_servers(vec![address.to_string()]);
        Self { fixture, address, tls, _stop: stop }
    }

    async fn invitation(&self, uses: u32) -> Invitation {
        let (_, text) = self
            .fixture
            .registrar
            .invite(NodeRole::Agent, uses, NOW_MS + 60_000)
            .await
            .expect("an invitation");
        invitation::parse(&text).expect("reads back")
    }

    async fn audit(&self, action: &str) -> Vec<String> {
        let lines = self.fixture.state.store.audit_log(i64::MAX, 100).await.expect("read");
        lines.into_iter().filter(|line| line.action == action).map(|line| line.outcome).collect()
    }
}

/// What a server of the fixture's cluster shows.
fn tls_of(fixture: &Fixture) -> Tls {
    let (key, id) = (NodeKey::generate().expect("a key"), NodeId::parse("n-test").expect("valid"));
    let csr = key.csr_pem(&id).expect("a request");
    let chain = fixture.authority.sign_node(&csr, &id, NodeRole::Server, tls::NODE_VALID).expect("signed");
    let public = fixture.authority.issue_server(&["localhost".into()], &[], 30).expect("issued");
    let ca = fixture.authority.certificate_pem();
    let registrar = Arc::clone(&fixture.registrar);
    Tls {
        link: Some(Arc::new(tls::link_server_config(&chain, &key.key_pem(), ca).expect("usable"))),
        join: Some(Arc::new(tls::join_server_config(&chain, &key.key_pem()).expect("usable"))),
        admits: Arc::new(move |pass| !registrar.is_revoked(&pass.node_id)),
        ..Tls::public(tls::server_config(&public.chain_pem, &public.key_pem).expect("usable"))
    }
}

async fn listen(app: axum::Router, tls: watch::Receiver<Tls>) -> (SocketAddr, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    tokio::spawn(serve::run(listener, tls, app, false, stop.clone(), Duration::from_millis(100)));
    (address, stop.drop_guard())
}

/// A machine with a key of its own.
struct Machine {
    key: NodeKey,
    id: NodeId,
}

impl Machine {
    fn new(id: &str) -> Self {
        Self { key: NodeKey::generate().expect("a key"), id: NodeId::parse(id).expect("valid") }
    }

    fn request(&self, admission: Admission) -> JoinRequest {
        JoinRequest {
            csr_pem: self.key.csr_pem(&self.id).expect("a request"),
            node_id: self.id.clone(),
            hostname: "box".into(),
            role: NodeRole::Agent,
            ceiling: Ceiling::Tasks,
            version: "1".into(),
            admission,
        }
    }

    async fn join(&self, invitation: &Invitation) -> Result<JoinAnswer, JoinFailure> {
        let admission =
            Admission::Token { token_id: invitation.token_id.clone(), secret: invitation.secret.clone() };
        enrol::join(&invitation.servers, &invitation.authority_sha256, &self.request(admission)).await
    }

    /// What a link answers to `POST path`, or why there is none.
    async fn link(&self, joined: &JoinAnswer, address: SocketAddr, path: &str) -> Result<u16, String> {
        let config =
            tls::link_client_config(&joined.certificate_pem, &self.key.key_pem(), &joined.authority_pem);
        let config = Arc::new(config.expect("usable"));
        let peer = Peer::open_at(address, config, Duration::from_secs(5)).await;
        let answer = peer.map_err(|error| error.to_string())?.post(path, b"{}".to_vec()).await;
        answer.map(|answer| answer.status).map_err(|error| error.to_string())
    }
}

fn code_of(result: Result<JoinAnswer, JoinFailure>) -> String {
    match result {
        Err(JoinFailure::Refused { code, .. }) => code,
        other => panic!("is no refusal: {other:?}"),
    }
}

#[tokio::test]
async fn a_machine_joins_by_token_and_links_with_its_certificate() {
    let server = Listening::new().await;
    let machine = Machine::new("n-1");
    let joined = machine.join(&server.invitation(1).await).await.expect("joins");
    assert_eq!((joined.cluster_id.as_str(), joined.keys.len()), ("c-test", 1));
    assert_eq!(joined.servers, [server.address.to_string()]);
    // A link reaches its own path, which this server does not serve yet, and no other.
    assert_eq!(machine.link(&joined, server.address, "/health").await, Ok(404));
    assert_eq!(server.audit("node.join").await, ["done"]);
    let enrolments = server.fixture.state.store.enrolments().await.expect("read");
    assert_eq!(
        (enrolments[0].hostname.as_str(), enrolments[0].ceiling, enrolments[0].role),
        ("box", Ceiling::Tasks, NodeRole::Agent)
    );
}

#[tokio::test]
async fn with_another_fingerprint_the_machine_refuses_before_it_says_its_secret() {
    let server = Listening::new().await;
    let invitation = server.invitation(1).await;
    let elsewhere = Invitation { authority_sha256: "ab".repeat(32), ..invitation.clone() };
    let refused = Machine::new("n-1").join(&elsewhere).await;
    assert!(matches!(refused, Err(JoinFailure::NotTrusted(_))), "{refused:?}");
    assert!(server.audit("node.join").await.is_empty(), "the server was asked nothing");
    // The same where the first server is an impostor and the second is right.
    let impostor = Listening::new().await;
    let servers = vec![impostor.address.to_string(), server.address.to_string()];
    Machine::new("n-1").join(&Invitation { servers, ..invitation }).await.expect("joins the second");
    assert!(impostor.audit("node.join").await.is_empty());
}

#[tokio::test]
async fn a_token_that_is_used_up_expired_revoked_or_unknown_admits_nobody_and_leaves_nothing_but_a_line() {
    let server = Listening::new().await;
    let once = server.invitation(1).await;
    Machine::new("n-1").join(&once).await.expect("joins");
    assert_eq!(code_of(Machine::new("n-2").join(&once).await), "join_token_used_up");

    let guessed = Invitation { secret: "guess".into(), ..server.invitation(1).await };
    assert_eq!(code_of(Machine::new("n-2").join(&guessed).await), "join_token_unknown");

    let revoked = server.invitation(1).await;
    let admin = server.fixture.token(Scope::Admin).await;
    let path = format!("/api/join-tokens/{}", revoked.token_id);
    let (status, _) = server.fixture.send("DELETE", &path, &admin, &json!(null)).await;
    assert_eq!(status, 204);
    assert_eq!(code_of(Machine::new("n-2").join(&revoked).await), "join_token_revoked");

    let expired = server.invitation(1).await;
    server.fixture.clock.advance(Duration::from_secs(61));
    assert_eq!(code_of(Machine::new("n-2").join(&expired).await), "join_token_expired");

    let enrolments = server.fixture.state.store.enrolments().await.expect("read");
    assert_eq!(enrolments.len(), 1, "{enrolments:?}");
    let audit = server.audit("node.join").await;
    let refusals = ["expired", "revoked", "unknown", "used_up"];
    assert_eq!(audit[..4], refusals.map(|why| format!("refused: join_token_{why}")));
}

#[tokio::test]
async fn whoever_guesses_has_to_wait() {
    let server = Listening::new().await;
    let right = server.invitation(1).await;
    let guess = Invitation { secret: "guess".into(), ..right.clone() };
    for _ in 0..5 {
        assert_eq!(code_of(Machine::new("n-1").join(&guess).await), "join_token_unknown");
    }
    assert_eq!(code_of(Machine::new("n-1").join(&right).await), "rate_limited");
    server.fixture.clock.advance(Duration::from_secs(2));
    Machine::new("n-1").join(&right).await.expect("joins after the wait");
}

#[tokio::test]
async fn a_node_whose_answer_was_lost_joins_again_with_the_same_token_and_nobody_else_does() {
    let server = Listening::new().await;
    let (machine, once) = (Machine::new("n-1"), server.invitation(1).await);
    machine.join(&once).await.expect("joins");
    machine.join(&once).await.expect("joins again");
    assert_eq!(code_of(Machine::new("n-1").join(&server.invitation(1).await).await), "node_id_taken");
    // With the key alone, as after a week away.
    let renewed = machine.request(Admission::Renewal);
    enrol::join(&once.servers, &once.authority_sha256, &renewed).await.expect("renews");
    let stranger = Machine::new("n-2").request(Admission::Renewal);
    let refused = enrol::join(&once.servers, &once.authority_sha256, &stranger).await;
    assert_eq!(code_of(refused), "node_unknown");
}

#[tokio::test]
async fn machines_from_networks_that_are_not_listed_do_not_join() {
    let server = Listening::with(AccessList::parse(["10.0.0.0/8"]).expect("a network")).await;
    let refused = Machine::new("n-1").join(&server.invitation(1).await).await;
    assert_eq!(code_of(refused), "join_not_allowed_from_here");
    assert_eq!(server.audit("node.join").await, ["refused: join_not_allowed_from_here"]);
}

#[tokio::test]
async fn a_token_for_agents_makes_no_server() {
    let server = Listening::new().await;
    let invitation = server.invitation(1).await;
    let admission = Admission::Token { token_id: invitation.token_id, secret: invitation.secret };
    let request = JoinRequest { role: NodeRole::Server, ..Machine::new("n-1").request(admission) };
    let refused = enrol::join(&invitation.servers, &invitation.authority_sha256, &request).await;
    assert_eq!(code_of(refused), "join_role_not_allowed");
    // And who may only operate makes no token for servers.
    let operator = server.fixture.token(Scope::Operate).await;
    let wish = json!({"role": "server"});
    let (status, _) = server.fixture.send("POST", "/api/join-tokens", &operator, &wish).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn a_revoked_node_is_out_at_once_and_stays_out() {
    let server = Listening::new().await;
    let (machine, other) = (Machine::new("n-1"), Machine::new("n-2"));
    let invitation = server.invitation(9).await;
    let joined = machine.join(&invitation).await.expect("joins");
    let other_joined = other.join(&invitation).await.expect("joins");
    let mut deltas = server.fixture.registrar.subscribe();

    let operator = server.fixture.token(Scope::Operate).await;
    let (status, _) = server.fixture.send("DELETE", "/api/nodes/n-1", &operator, &json!(null)).await;
    assert_eq!(status, 403);
    let admin = server.fixture.token(Scope::Admin).await;
    let (status, body) = server.fixture.send("DELETE", "/api/nodes/n-1", &admin, &json!(null)).await;
    assert_eq!((status.as_u16(), &body["revoked"], &body["stored"]), (200, &json!(true), &json!(true)));

    assert_eq!(machine.link(&joined, server.address, "/cluster").await, Ok(403));
    assert_eq!(other.link(&other_joined, server.address, "/cluster").await, Ok(404));
    assert_eq!(code_of(machine.join(&invitation).await), "node_revoked");
    assert_eq!(code_of(Machine::new("n-1").join(&invitation).await), "node_revoked");
    let delta = deltas.recv().await.expect("everybody is told");
    assert_eq!((delta.revoked, delta.keys[0].generation, delta.keys.len()), (vec!["n-1".to_owned()], 2, 1));
    assert_eq!(*server.fixture.kept_keys.lock().expect("free"), delta.keys);
    let pass =
        tls::check_node_chain(&joined.certificate_pem, &joined.authority_pem, &machine.key.key_sha256())
            .expect("still well formed");
    let csr = machine.key.csr_pem(&machine.id).expect("a request");
    assert!(server.fixture.registrar.renew(&pass, &csr).await.is_err());
    let (status, _) = server.fixture.send("DELETE", "/api/nodes/n-test", &admin, &json!(null)).await;
    assert_eq!(status, 409);
    let (status, _) = server.fixture.send("DELETE", "/api/nodes/n-9", &admin, &json!(null)).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_revocation_is_in_force_even_if_it_cannot_be_written_down() {
    let server = Listening::new().await;
    let machine = Machine::new("n-1");
    let joined = machine.join(&server.invitation(1).await).await.expect("joins");
    server.fixture.state.store.close();
    let revocation = server.fixture.registrar.revoke(&machine.id).await.expect("revokes");
    assert!(!revocation.is_stored);
    assert_eq!(machine.link(&joined, server.address, "/cluster").await, Ok(403));
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_the_next_who_comes() {
    let server = Listening::new().await;
    let first = Peer::open_at(server.address, pinned(&server), Duration::from_secs(5)).await.expect("opens");
    let first_key = first.key_sha256().to_owned();
    server.tls.send_replace(tls_of(&server.fixture));
    let second = Peer::open_at(server.address, pinned(&server), Duration::from_secs(5)).await.expect("opens");
    assert_ne!(second.key_sha256(), first_key);
    assert_eq!(
        second.post("/health", Vec::new()).await.expect("answers").status,
        404,
        "joins reach one path"
    );
}

fn pinned(server: &Listening) -> Arc<rustls::ClientConfig> {
    Arc::new(tls::pinned_join_config(server.fixture.registrar.authority_sha256()).expect("usable"))
}

/// A machine that shows a code, listens, and joins whoever proves to know it.
async fn newcomer(machine: Machine, server: &Listening) -> (Arc<Newcomer>, SocketAddr, DropGuard) {
    let clock = Arc::clone(&server.fixture.clock);
    let (newcomer, mut adoptions) = Newcomer::new(machine.key.key_sha256(), clock);
    let chain = machine.key.self_signed_pem(&machine.id, tls::NODE_VALID).expect("signed");
    let config = tls::server_config(&chain, &machine.key.key_pem()).expect("usable");
    let tls = watch::Sender::new(Tls::public(config));
    let (address, stop) = listen(cluster_adopt::router(Arc::clone(&newcomer)), tls.subscribe()).await;
    tokio::spawn(async move {
        let _tls = tls;
        while let Some(adoption) = adoptions.recv().await {
            let request = machine.request(adoption.admission);
            drop(enrol::join(&adoption.servers, &adoption.authority_sha256, &request).await);
        }
    });
    (newcomer, address, stop)
}

#[tokio::test]
async fn a_machine_is_adopted_by_whoever_types_its_code() {
    let server = Listening::new().await;
    let (newcomer, address, _stop) = newcomer(Machine::new("n-1"), &server).await;
    server.fixture.machines.lock().expect("free").insert("n-1".into(), address);
    let operator = server.fixture.token(Scope::Operate).await;
    let adopt = async |code: &str| {
        server.fixture.send("POST", "/api/machines/n-1/adopt", &operator, &json!({"code": code})).await
    };

    let (status, body) = adopt("2222-2222").await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (403, &json!("adopt_code_wrong")), "{body}");
    let (status, body) = adopt(&newcomer.code()).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (429, &json!("rate_limited")), "{body}");
    assert!(server.fixture.state.store.enrolments().await.expect("read").is_empty());

    let typed = newcomer.code().to_lowercase().replace('-', " ");
    server.fixture.clock.advance(Duration::from_secs(1));
    let (status, body) = adopt(&typed).await;
    assert_eq!((status.as_u16(), &body["node_id"]), (200, &json!("n-1")), "{body}");
    let enrolments = server.fixture.state.store.enrolments().await.expect("read");
    assert_eq!(enrolments[0].admitted_by, "adopted:token:t");
    let (status, body) = adopt(&newcomer.code()).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (409, &json!("machine_is_node")), "{body}");
    let audit = server.audit("node.adopt").await;
    assert!(audit.contains(&"done".to_owned()) && audit.contains(&"refused: adopt_code_wrong".to_owned()));
}

#[tokio::test]
async fn a_machine_that_answers_under_another_id_is_not_adopted() {
    let server = Listening::new().await;
    let (newcomer, address, _stop) = newcomer(Machine::new("n-other"), &server).await;
    server.fixture.machines.lock().expect("free").insert("n-1".into(), address);
    let operator = server.fixture.token(Scope::Operate).await;
    let code = json!({"code": newcomer.code()});
    let (status, body) = server.fixture.send("POST", "/api/machines/n-1/adopt", &operator, &code).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (409, &json!("machine_is_another")), "{body}");
    assert!(server.fixture.state.store.enrolments().await.expect("read").is_empty());
}

#[tokio::test]
async fn nobody_joins_by_adoption_unasked_and_an_absent_machine_is_said_to_be_absent() {
    let server = Listening::new().await;
    let unasked = Machine::new("n-1").request(Admission::Adoption { proof: "00".into() });
    let servers = [server.address.to_string()];
    let refused = enrol::join(&servers, server.fixture.registrar.authority_sha256(), &unasked).await;
    assert_eq!(code_of(refused), "join_not_adopted");
    let operator = server.fixture.token(Scope::Operate).await;
    let code = json!({"code": "2222-2222"});
    let (status, _) = server.fixture.send("POST", "/api/machines/n-9/adopt", &operator, &code).await;
    assert_eq!(status, 404);
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    server.fixture.machines.lock().expect("free").insert("n-9".into(), closed);
    let (status, body) = server.fixture.send("POST", "/api/machines/n-9/adopt", &operator, &code).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (504, &json!("machine_unreachable")));
}

#[tokio::test]
async fn join_tokens_are_made_listed_and_shown_once() {
    let server = Listening::new().await;
    let operator = server.fixture.token(Scope::Operate).await;
    let wish = json!({"uses": 2, "expires_s": 600});
    let (status, made) = server.fixture.send("POST", "/api/join-tokens", &operator, &wish).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(made["expires_at_ms"], json!(NOW_MS + 600_000));
    let text = made["token"].as_str().expect("a token");
    assert_eq!(made["command"], json!(format!("caelum join {text}")));
    Machine::new("n-1").join(&invitation::parse(text).expect("reads")).await.expect("joins");
    let (_, listed) = server.fixture.get("/api/join-tokens", &operator).await;
    let token = &listed["join_tokens"][0];
    assert_eq!((&token["uses_left"], &token["state"]), (&json!(1), &json!("valid")), "{listed}");
    assert!(!listed.to_string().contains("secret"));
    for wrong in [json!({"uses": 0}), json!({"expires_s": -1}), json!({"use": 1})] {
        let (status, _) = server.fixture.send("POST", "/api/join-tokens", &operator, &wrong).await;
        assert_eq!(status, 400, "{wrong}");
    }
}
