//! Building packages over the API: who may, what is refused, and what the invitation in one is worth.

use std::io::Read as _;

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use caelum_drivers::tls::NodeKey;
use caelum_model::{
    access::Scope,
    cluster::{Ceiling, NodeRole},
    id::NodeId,
    join::{Admission, Invitation, JoinRequest},
};
use caelum_roles::enrol::{JoinError, invitation, sealed};
use caelum_web::serve::Transport;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    fixture::{Fixture, NOW_MS},
    pages::{look, post, signed_in},
};

const BUILD: &str = "/api/fleet/build-cluster-package";

/// A package's headers and bytes.
async fn built(fixture: &Fixture, wish: &Value) -> (axum::http::HeaderMap, Vec<u8>) {
    let token = fixture.token(Scope::Admin).await;
    let mut request = Request::post(BUILD)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT_ENCODING, "gzip")
        .body(Body::from(wish.to_string()))
        .expect("a request");
    let peer = ([127, 0, 0, 1], 40_000).into();
    request.extensions_mut().insert(Transport { peer, is_tls: true, node: None });
    let response = fixture.app.clone().oneshot(request).await.expect("the router answers");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("the body ends").to_bytes().to_vec();
    assert_eq!(parts.status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
    (parts.headers, bytes)
}

/// The invitation in an archive.
fn invitation_in(archive: &[u8]) -> Invitation {
    let mut members = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut text = String::new();
    let join = members.entries().expect("an archive").map(|entry| entry.expect("a member"));
    let mut join = join.into_iter().find(|entry| entry.path().expect("a path").ends_with("join"));
    join.as_mut().expect("an invitation").read_to_string(&mut text).expect("is text");
    invitation::parse(&text).expect("reads back")
}

async fn join(fixture: &Fixture, invitation: &Invitation, id: &str) -> Result<(), JoinError> {
    let (key, node_id) = (NodeKey::generate().expect("a key"), NodeId::parse(id).expect("valid"));
    let request = JoinRequest {
        csr_pem: key.csr_pem(&node_id).expect("a request"),
        node_id,
        hostname: "box".into(),
        role: NodeRole::Agent,
        ceiling: Ceiling::Observe,
        version: "1".into(),
        admission: Admission::Token {
            token_id: invitation.token_id.clone(),
            secret: invitation.secret.clone(),
        },
    };
    fixture.registrar.join(&request, [127, 0, 0, 1].into()).await.map(drop)
}

async fn listed(fixture: &Fixture) -> Vec<Value> {
    let token = fixture.token(Scope::Operate).await;
    let (status, json) = fixture.get("/api/fleet/packages", &token).await;
    assert_eq!(status, StatusCode::OK);
    json["packages"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn a_package_is_a_file_that_admits_one_machine_once() {
    let fixture = Fixture::new().await;
    let wish = json!({"package_name": "caelum-edge-1.tar.gz", "node_name": "edge-1", "expires": "1h"});
    let (headers, bytes) = built(&fixture, &wish).await;
    assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment; filename=\"caelum-edge-1.tar.gz\"");
    let invitation = invitation_in(&bytes);
    assert_eq!(invitation.servers[0], "hq.example.net:8080", "the operator's address goes first");
    assert_eq!(invitation.expires_at_ms, NOW_MS + 3_600_000);

    let packages = listed(&fixture).await;
    assert_eq!(packages.len(), 1);
    assert_eq!(packages[0]["package_id"], headers["x-caelum-package-id"].to_str().expect("is text"));
    assert_eq!((&packages[0]["state"], &packages[0]["size_bytes"]), (&json!("waiting"), &json!(bytes.len())));
    assert!(!packages[0].to_string().contains(&invitation.secret));

    join(&fixture, &invitation, "n-one").await.expect("admitted");
    let refused = join(&fixture, &invitation, "n-two").await.expect_err("spent");
    assert_eq!(refused.code(), "join_token_used_up");
    let used = listed(&fixture).await.remove(0);
    assert_eq!((&used["state"], &used["used_by"]), (&json!("used"), &json!("n-one")));
    let audit = fixture.state.store.audit_log(i64::MAX, 100).await.expect("read");
    assert!(audit.iter().any(|line| line.action == "package.build" && line.outcome == "done"));
}

#[tokio::test]
async fn a_package_that_is_over_admits_nobody_and_is_then_taken_off_the_list() {
    let fixture = Fixture::new().await;
    let admin = fixture.token(Scope::Admin).await;
    let wish = json!({"package_name": "a.tar.gz", "expires": "1h"});
    let (revoked, (_, bytes)) = (built(&fixture, &wish).await, built(&fixture, &wish).await);
    let id = revoked.0["x-caelum-package-id"].to_str().expect("is text").to_owned();
    let path = format!("/api/fleet/packages/{id}");
    let (status, _) = fixture.send("DELETE", &path, &admin, &Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let error = join(&fixture, &invitation_in(&revoked.1), "n-one").await.expect_err("revoked");
    assert_eq!(error.code(), "join_token_revoked");

    fixture.clock.advance(std::time::Duration::from_secs(3_600));
    let error = join(&fixture, &invitation_in(&bytes), "n-two").await.expect_err("expired");
    assert_eq!(error.code(), "join_token_expired");
    let states: Vec<String> = listed(&fixture).await.iter().map(|one| one["state"].to_string()).collect();
    assert!(states.contains(&"\"revoked\"".to_owned()) && states.contains(&"\"expired\"".to_owned()));
    let (status, _) = fixture.send("DELETE", &path, &admin, &Value::Null).await;
    assert_eq!((status, listed(&fixture).await.len()), (StatusCode::NO_CONTENT, 1));
    let (status, _) = fixture.send("DELETE", &path, &admin, &Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_an_administrator_builds_and_revokes() {
    let fixture = Fixture::new().await;
    let wish = json!({"package_name": "a.tar.gz"});
    for scope in [Scope::Read, Scope::Operate] {
        let token = fixture.token(scope).await;
        let (status, json) = fixture.send("POST", BUILD, &token, &wish).await;
        assert_eq!((status, &json["error"]["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
        let (status, _) = fixture.send("DELETE", "/api/fleet/packages/p-1", &token, &Value::Null).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
    }
    let viewer = fixture.token(Scope::Read).await;
    let (status, _) = fixture.get("/api/fleet/packages", &viewer).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(fixture.state.store.join_tokens(9).await.expect("read").is_empty());
}

#[tokio::test]
async fn what_cannot_be_built_is_refused_and_leaves_no_invitation() {
    let fixture = Fixture::new().await;
    let admin = fixture.token(Scope::Admin).await;
    let bad = [
        json!({"package_name": "../../etc/cron.d/x.deb"}),
        json!({"package_name": "a\r\nX-Evil: 1.deb"}),
        json!({"package_name": "a\".deb"}),
        json!({"package_name": "a"}),
        json!({"package_name": "a.deb", "node_name": "../x"}),
        json!({"package_name": "a.deb", "node_name": "x\"\nadmin_password = \"y"}),
        json!({"package_name": "a.deb", "expires": "9999d"}),
        json!({"package_name": "a.deb", "platform": "macos-arm64"}),
        json!({"package_name": "a.deb", "kind": "exe"}),
        json!({"package_name": "a.deb", "role": "server"}),
        json!({"package_name": "a.deb", "surprise": 1}),
        json!([]),
    ];
    for wish in bad {
        let (status, json) = fixture.send("POST", BUILD, &admin, &wish).await;
        assert_eq!(
            (status, &json["error"]["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_request")),
            "{wish}"
        );
    }
    let (status, json) = fixture.send("POST", BUILD, &admin, &json!({"package_name": "a.pkg"})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let said = json["error"]["message"].as_str().expect("words").to_owned();
    assert!(said.contains("packages.artifacts") && said.contains("apple-darwin/caelum"), "{said}");
    assert!(fixture.state.store.join_tokens(9).await.expect("read").is_empty());
    let image = json!({"package_name": "a.oci.tar"});
    let (status, json) = fixture.send("POST", BUILD, &admin, &image).await;
    assert_eq!(status, StatusCode::CONFLICT, "a shell is not static");
    assert!(json["error"]["message"].to_string().contains("static"), "{json}");
    let tokens = fixture.state.store.join_tokens(9).await.expect("read");
    assert!(tokens.iter().all(|token| token.revoked_at_ms.is_some()), "what was begun is taken back");
}

#[tokio::test]
async fn what_can_be_built_is_told_with_what_is_missing() {
    let fixture = Fixture::new().await;
    let token = fixture.token(Scope::Operate).await;
    let (status, json) = fixture.get("/api/fleet/packages/platforms", &token).await;
    assert_eq!(status, StatusCode::OK);
    let found = json["platforms"].as_array().expect("a list");
    let of = |kind: &str, ready: bool| {
        found.iter().filter(|one| one["kind"] == kind && one["ready"] == ready).count()
    };
    assert_eq!((of("deb", true), of("deb", false), of("pkg", false)), (1, 1, 2), "{json}");
    assert!(found.iter().filter(|one| one["ready"] == false).all(|one| {
        one["reason"].is_string() && one["remedy"].as_str().is_some_and(|text| text.contains("caelum"))
    }));
}

#[tokio::test]
async fn mailboxes_are_shown_with_what_makes_an_account_for_machines() {
    let fixture = Fixture::new().await;
    let (status, _) = fixture.get("/api/fleet/packages/mailboxes", &fixture.token(Scope::Read).await).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, json) =
        fixture.get("/api/fleet/packages/mailboxes", &fixture.token(Scope::Operate).await).await;
    assert_eq!(status, StatusCode::OK);
    let found = &json["mailboxes"][0];
    assert_eq!((&found["kind"], &found["answered"]), (&json!("redis"), &json!(2)));
    assert!(
        found["rights"][0].as_str().is_some_and(|line| line.contains("{caelum:c-test}:join:q:")),
        "{json}"
    );
    assert_eq!(found["example"], "redis://caelum-join:CHOOSE-ONE@db:6379");
    let page = look(&fixture, "/settings/installer", &signed_in(&fixture, "admin").await).await.html;
    assert!(page.contains("ACL SETUSER caelum-join") && page.contains("everything in this Redis"), "{page}");
}

#[tokio::test]
async fn an_account_of_the_servers_own_is_put_into_no_package_that_is_not_sealed() {
    let fixture = Fixture::new().await;
    let admin = fixture.token(Scope::Admin).await;
    for (mailbox, said) in [
        ("redis://:s3cret@db:6379", "ACL SETUSER"),
        ("redis://caelum:s3cret@db:6379", "ACL SETUSER"),
        ("file:/mnt/caelum", "no server looks into a mailbox of the kind file"),
        ("http://s3cret@db", "must be postgres://"),
    ] {
        let wish = json!({"package_name": "a.tar.gz", "mailbox": mailbox});
        let (status, json) = fixture.send("POST", BUILD, &admin, &wish).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{mailbox}");
        let text = json.to_string();
        assert!(text.contains(said) && !text.contains("s3cret"), "{mailbox}: {text}");
    }
    assert!(listed(&fixture).await.is_empty());
    let own = "redis://caelum-join:j0in@db:6379";
    let wish = json!({"package_name": "a.tar.gz", "mailbox": own});
    let (_, bytes) = built(&fixture, &wish).await;
    let place = invitation_in(&bytes).mailbox.expect("names one");
    assert_eq!((place.address.as_str(), place.key.len()), (own, 64));
    let wish = json!({
        "package_name": "b.tar.gz", "mailbox": "redis://:s3cret@db:6379", "passphrase": "correct horse battery",
    });
    built(&fixture, &wish).await;
}

#[tokio::test]
async fn the_page_builds_without_scripts_and_shows_what_became_of_packages() {
    let fixture = Fixture::new().await;
    let admin = signed_in(&fixture, "admin").await;
    let empty = look(&fixture, "/settings/installer", &admin).await;
    for part in ["Add a machine with one file.", "hq.example.net:8080", "In the package", "None yet."] {
        assert!(empty.html.contains(part), "{part}: {}", empty.html);
    }
    assert!(empty.html.contains("value=\"server\" disabled") || empty.html.contains("disabled>a server"));
    let form = "node_name=edge-1&package_name=caelum-edge-1&kind=tar.gz&processor=x86_64&role=agent\
                &ceiling=tasks&expires=1h";
    let built = post(&fixture, "/settings/installer", &admin, form).await;
    assert_eq!(built.status, StatusCode::OK, "{}", built.html);
    let listed = look(&fixture, "/settings/installer", &admin).await;
    for part in ["caelum-edge-1.tar.gz", "Waiting to be used", "Revoke"] {
        assert!(listed.html.contains(part), "{part}: {}", listed.html);
    }
    let bad = form.replace("caelum-edge-1", "..%2Fevil");
    let refused = post(&fixture, "/settings/installer", &admin, &bad).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(
        refused.html.contains("Not built.") && refused.html.contains("value=\"../evil\""),
        "{}",
        refused.html
    );

    let id = fixture.state.store.packages(1).await.expect("read").remove(0).package_id;
    let gone = post(&fixture, "/settings/installer/revoke", &admin, &format!("package_id={id}")).await;
    assert_eq!(gone.location, "/settings/installer");
    assert!(look(&fixture, "/settings/installer", &admin).await.html.contains("Revoked"));

    let viewer = signed_in(&fixture, "looker").await;
    let seen = look(&fixture, "/settings/installer", &viewer).await;
    assert!(
        seen.html.contains("needs the role admin") && !seen.html.contains("caelum-edge-1"),
        "{}",
        seen.html
    );
    let refused = post(&fixture, "/settings/installer", &viewer, form).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_sealed_package_holds_no_invitation_in_the_clear() {
    let fixture = Fixture::new().await;
    let wish = json!({"package_name": "a.tar.gz", "passphrase": "correct horse battery"});
    let (_, bytes) = built(&fixture, &wish).await;
    let mut members = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
    let mut all = String::new();
    for entry in members.entries().expect("an archive") {
        let mut entry = entry.expect("a member");
        if entry.size() < 10_000 {
            entry.read_to_string(&mut all).expect("is text");
        }
    }
    assert!(!all.contains("caelum-join.") && !all.contains("correct horse"));
    let sealed = all.split_whitespace().find(|word| sealed::is_sealed(word)).expect("is there");
    let text = sealed::open(sealed, "correct horse battery").expect("opens");
    join(&fixture, &invitation::parse(&text).expect("reads"), "n-one").await.expect("admitted");
    let admin = fixture.token(Scope::Admin).await;
    let short = json!({"package_name": "a.tar.gz", "passphrase": "short"});
    assert_eq!(fixture.send("POST", BUILD, &admin, &short).await.0, StatusCode::BAD_REQUEST);
}
