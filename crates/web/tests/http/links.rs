//! Links through the real listener: who is let in, and what the others are told.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use caelum_drivers::{
    link::{self, DialError, How, Incoming, Link, Outgoing},
    tls::{self, Authority, NodeKey},
};
use caelum_model::{cluster::NodeRole, id::NodeId};
use caelum_web::{
    cluster::{self, Door},
    serve::{self, Tls},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};

struct Doorway {
    addr: SocketAddr,
    links: mpsc::Receiver<Link>,
    authority: Authority,
    _tls: watch::Sender<Tls>,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Doorway {
    /// A listener that has only the door, as an agent does.
    async fn new(is_open: bool) -> Self {
        let authority = Authority::create("test").expect("an authority");
        let (chain, key) = node(&authority, "server", NodeRole::Server);
        let public = authority.issue_server(&["localhost".into()], &[], 30).expect("issued");
        let public = tls::server_config(&public.chain_pem, &public.key_pem).expect("usable");
        let link = tls::link_server_config(&chain, &key, authority.certificate_pem()).expect("usable");
        let (tls, _) = watch::channel(Tls { link: Some(link.into()), ..Tls::public(public) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let (sender, links) = mpsc::channel(8);
        let app: Router = cluster::router(Door::new(sender, is_open));
        let stop = CancellationToken::new();
        let drain_max = Duration::from_millis(100);
        tokio::spawn(serve::run(listener, tls.subscribe(), app, false, stop.clone(), drain_max));
        Self { addr, links, authority, _tls: tls, _stop: stop.clone().drop_guard(), stop }
    }

    /// What a node dials with.
    fn tls(&self, id: &str) -> link::Tls {
        let (chain, key) = node(&self.authority, id, NodeRole::Agent);
        let config = tls::link_client_config(&chain, &key, self.authority.certificate_pem()).expect("usable");
        link::Tls { config: config.into(), read_pass: |der| tls::node_pass(der).ok() }
    }

    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("it answers and closes");
        String::from_utf8(answer).expect("text")
    }
}

fn node(authority: &Authority, id: &str, role: NodeRole) -> (String, String) {
    let (key, id) = (NodeKey::generate().expect("a key"), NodeId::parse(id).expect("valid"));
    let csr = key.csr_pem(&id).expect("a request");
    (authority.sign_node(&csr, &id, role, tls::NODE_VALID).expect("signed"), key.key_pem())
}

async fn speak(dialled: &mut Link, accepted: &mut Link) {
    for (from, to) in [(&*dialled, 0), (&*accepted, 1)] {
        from.outgoing.send(Outgoing::Text(format!("hello {to}"))).await.expect("open");
    }
    assert_eq!(accepted.incoming.recv().await, Some(Incoming::Text("hello 0".into())));
    assert_eq!(dialled.incoming.recv().await, Some(Incoming::Text("hello 1".into())));
}

#[tokio::test]
async fn a_stranger_links_where_the_door_is_open() {
    let mut door = Doorway::new(true).await;
    let mut dialled = link::dial(door.addr, None).await.expect("it is let in");
    let mut accepted = door.links.recv().await.expect("it is handed on");
    assert_eq!((accepted.pass.as_ref(), dialled.pass.as_ref()), (None, None));
    speak(&mut dialled, &mut accepted).await;
}

#[tokio::test]
async fn a_program_that_dials_without_a_path_finds_the_links() {
    let mut door = Doorway::new(true).await;
    let mut stream = TcpStream::connect(door.addr).await.expect("it listens");
    let upgrade = "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.expect("it reads");
    assert!(door.links.recv().await.is_some());
}

#[tokio::test]
async fn a_stranger_is_refused_where_the_door_is_not_open_and_told_why() {
    let door = Doorway::new(false).await;
    let error = link::dial(door.addr, None).await.expect_err("it is refused");
    assert!(
        matches!(&error, DialError::Refused { status: 403, reason, .. } if reason.contains("not_a_node"))
    );
    assert!(error.is_refusal());
}

#[tokio::test]
async fn two_nodes_link_and_each_knows_who_the_other_is() {
    let mut door = Doorway::new(false).await;
    let mut dialled = link::dial(door.addr, Some(&door.tls("n-1"))).await.expect("it is let in");
    let mut accepted = door.links.recv().await.expect("it is handed on");
    let id = |link: &Link| link.pass.as_ref().map(|pass| pass.node_id.to_string());
    assert_eq!((id(&dialled).as_deref(), id(&accepted).as_deref()), (Some("server"), Some("n-1")));
    speak(&mut dialled, &mut accepted).await;
    drop(accepted);
    assert_eq!(dialled.incoming.recv().await, Some(Incoming::Closed(How::Goodbye)));
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused() {
    let (door, other) = (Doorway::new(false).await, Doorway::new(false).await);
    let error = link::dial(door.addr, Some(&other.tls("n-1"))).await.expect_err("it is refused");
    assert!(error.is_refusal(), "{error}");
}

#[tokio::test]
async fn a_link_outlives_the_listener_that_took_it() {
    let mut door = Doorway::new(true).await;
    let mut dialled = link::dial(door.addr, None).await.expect("it is let in");
    let mut accepted = door.links.recv().await.expect("it is handed on");
    door.stop.cancel();
    speak(&mut dialled, &mut accepted).await;
}

#[tokio::test]
async fn a_request_that_is_no_upgrade_is_told_to_be_one() {
    let door = Doorway::new(true).await;
    let answer = door.ask("GET /cluster HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    let upgrade = "GET /cluster HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let answer = door.ask(&format!("{upgrade}origin: https://elsewhere.example\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("cross_origin"), "{answer}");
    // HTTP/2 cannot be upgraded this way.
    let request = axum::http::Request::get("/cluster").version(axum::http::Version::HTTP_2);
    let mut request = request.body(axum::body::Body::empty()).expect("a request");
    let peer = ([127, 0, 0, 1], 1).into();
    request.extensions_mut().insert(serve::Transport { peer, is_tls: true, node: None });
    let app: Router = cluster::router(Door::new(mpsc::channel(1).0, true));
    let response = tower::ServiceExt::oneshot(app, request).await.expect("the router answers");
    assert_eq!(response.status(), axum::http::StatusCode::UPGRADE_REQUIRED);
}
