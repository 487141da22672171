//! Who is let in and who is trusted, by real handshakes in memory.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use caelum_model::id::NodeId;
use rustls::{ClientConnection, ServerConnection, time_provider::TimeProvider};

use super::*;
use crate::tls::{Authority, NODE_VALID, NodeKey, fingerprint_of_pem, server_config};

/// A node of an authority: chain and key.
fn node(authority: &Authority, role: NodeRole) -> (String, String) {
    let (key, id) = (NodeKey::generate().unwrap(), NodeId::parse("n-1").unwrap());
    let csr = key.csr_pem(&id).unwrap();
    (authority.sign_node(&csr, &id, role, NODE_VALID).unwrap(), key.key_pem())
}

fn link_server(node: &(String, String), authority: &Authority) -> ServerConfig {
    link_server_config(&node.0, &node.1, authority.certificate_pem()).unwrap()
}

fn link_client(node: &(String, String), authority: &Authority) -> ClientConfig {
    link_client_config(&node.0, &node.1, authority.certificate_pem()).unwrap()
}

fn pinned(authority: &Authority) -> ClientConfig {
    pinned_join_config(&fingerprint_sha256(authority.certificate_der())).unwrap()
}

/// A whole handshake and one byte each way; answers the connections, or who refused whom.
fn shake(client: ClientConfig, server: ServerConfig) -> Result<(ClientConnection, ServerConnection), String> {
    let name = ServerName::try_from(NODE_SERVER_NAME).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    client.writer().write_all(b"?").unwrap();
    for _ in 0..8 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets().map_err(|error| format!("client: {error}"))?;
    }
    let mut byte = [0];
    server.reader().read_exact(&mut byte).map_err(|error| format!("no handshake: {error}"))?;
    Ok((client, server))
}

fn refusal(client: ClientConfig, server: ServerConfig) -> String {
    shake(client, server).map(drop).expect_err("is refused")
}

#[test]
fn nodes_of_one_authority_link_and_know_who_the_other_is() {
    let authority = Authority::create("ours").unwrap();
    let (a, b) = (node(&authority, NodeRole::Agent), node(&authority, NodeRole::Server));
    let (client, server) = shake(link_client(&a, &authority), link_server(&b, &authority)).unwrap();
    let seen_by_server = node_pass(&server.peer_certificates().unwrap()[0]).unwrap();
    let seen_by_client = node_pass(&client.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!((seen_by_server.role, seen_by_client.role), (NodeRole::Agent, NodeRole::Server));
    assert_eq!(server.alpn_protocol(), Some(ALPN_LINK));
}

#[test]
fn a_link_with_a_node_of_another_authority_is_refused_by_both_sides() {
    let (ours, theirs) = (Authority::create("ours").unwrap(), Authority::create("theirs").unwrap());
    let (a, b) = (node(&ours, NodeRole::Agent), node(&theirs, NodeRole::Server));
    assert!(refusal(link_client(&a, &ours), link_server(&b, &theirs)).starts_with("client"));
    // A client that trusts them is refused by them all the same.
    assert!(refusal(link_client(&a, &theirs), link_server(&b, &theirs)).starts_with("server"));
}

/// A clock that shows a time after every node's certificate.
#[derive(Debug)]
struct NextWeek;

impl TimeProvider for NextWeek {
    fn current_time(&self) -> Option<UnixTime> {
        let now = UnixTime::now().as_secs();
        Some(UnixTime::since_unix_epoch(NODE_VALID + Duration::from_secs(now + 60)))
    }
}

#[test]
fn a_link_with_an_expired_certificate_is_refused_by_both_sides() {
    let authority = Authority::create("ours").unwrap();
    let (a, b) = (node(&authority, NodeRole::Agent), node(&authority, NodeRole::Agent));
    let (mut client, mut server) = (link_client(&a, &authority), link_server(&b, &authority));
    server.time_provider = Arc::new(NextWeek);
    let text = refusal(client.clone(), server);
    assert!(text.starts_with("server") && text.contains("xpired"), "{text}");
    client.time_provider = Arc::new(NextWeek);
    let text = refusal(client, link_server(&b, &authority));
    assert!(text.starts_with("client") && text.contains("xpired"), "{text}");
}

#[test]
fn a_client_without_a_certificate_or_with_a_browsers_kind_is_no_link() {
    let authority = Authority::create("ours").unwrap();
    let server = node(&authority, NodeRole::Server);
    let mut bare = adopt_client_config().unwrap();
    bare.alpn_protocols = vec![ALPN_LINK.to_vec()];
    assert!(refusal(bare, link_server(&server, &authority)).starts_with("server"));
    let public = authority.issue_server(&[NODE_SERVER_NAME.to_owned()], &[], 10).unwrap();
    let public = (public.chain_pem, public.key_pem);
    let text = refusal(link_client(&public, &authority), link_server(&server, &authority));
    assert!(text.starts_with("server"), "{text}");
}

#[test]
fn joining_trusts_a_server_of_the_named_authority_and_nobody_else() {
    let (ours, theirs) = (Authority::create("ours").unwrap(), Authority::create("theirs").unwrap());
    let join = |node: &(String, String)| join_server_config(&node.0, &node.1).unwrap();
    let server = node(&ours, NodeRole::Server);
    shake(pinned(&ours), join(&server)).unwrap();
    assert!(refusal(pinned(&theirs), join(&server)).starts_with("client"), "another fingerprint");
    assert!(refusal(pinned(&ours), join(&node(&ours, NodeRole::Agent))).starts_with("client"), "an agent");
    let mut late = pinned(&ours);
    late.time_provider = Arc::new(NextWeek);
    assert!(refusal(late, join(&server)).contains("xpired"));
    // The right authority's certificate beside a chain that it did not sign.
    let (chain, key) = node(&theirs, NodeRole::Server);
    let grafted = (format!("{chain}{}", ours.certificate_pem()), key);
    assert!(refusal(pinned(&ours), join(&grafted)).starts_with("client"), "a grafted chain");
    // A browser's certificate of the right authority, even under the nodes' name.
    let public = ours.issue_server(&[NODE_SERVER_NAME.to_owned()], &[], 10).unwrap();
    assert!(refusal(pinned(&ours), join(&(public.chain_pem, public.key_pem))).starts_with("client"));
}

#[test]
fn adoption_sees_the_key_of_whoever_answers() {
    let (key, id) = (NodeKey::generate().unwrap(), NodeId::parse("n-1").unwrap());
    let chain = key.self_signed_pem(&id, NODE_VALID).unwrap();
    let server = server_config(&chain, &key.key_pem()).unwrap();
    let (client, _) = shake(adopt_client_config().unwrap(), server).unwrap();
    let shown = crate::tls::key_sha256_of(&client.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(shown, key.key_sha256());
    assert!(fingerprint_of_pem(&chain).is_ok());
}
