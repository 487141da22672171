//! The whole HTTP side on a real store and queue in a temporary directory, asked without a socket.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use caelum_drivers::{artifacts::Artifacts, clock::ManualClock, ssh::Keyring, tls::Authority};
use caelum_engine::enrol::AccessList;
use caelum_model::{
    access::{Role, Scope, User},
    cluster::{ClusterKey, Roster},
    id::NodeId,
    node::Thresholds,
};
use caelum_queue::{Embedded, Queue};
use caelum_roles::{
    bus::Bus,
    cluster::Handle,
    enrol::{self, Registrar},
    ingest::{Config, Ingest},
    master_key::{MasterKey, make_master_key},
    orders::Orders,
    packages::{self, Builder},
    secrets::Secrets,
    ssh::{self, Ssh},
    tasks::{self, Desk},
};
use caelum_store::Store;
use caelum_web::{
    State,
    api::access,
    auth,
    events::{Gate, Limits},
    serve::Transport,
    state,
};
use http_body_util::BodyExt;
use tower::ServiceExt;

pub const NOW_MS: i64 = 1_800_000_000_000;
pub const BODY_BYTES_MAX: usize = 64 << 10;

pub struct Fixture {
    pub app: Router,
    pub state: Arc<State>,
    pub clock: Arc<ManualClock>,
    pub authority: Arc<Authority>,
    pub registrar: Arc<Registrar>,
    /// Machines that are there to be adopted.
    pub machines: Arc<Mutex<HashMap<String, SocketAddr>>>,
    /// The keys of the cluster as they were written down.
    pub kept_keys: Arc<Mutex<Vec<ClusterKey>>>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::admitting(AccessList::default()).await
    }

    /// Machines with these addresses may join.
    pub async fn admitting(access: AccessList) -> Self {
        let config = Config {
            partitions: 4,
            rate_events_per_s: 1000,
            rate_burst_events: 1000,
            backlog_events_max: 10_000,
        };
        Self::made(config, access).await
    }

    pub async fn with(config: Config) -> Self {
        Self::made(config, AccessList::default()).await
    }

    async fn made(config: Config, access: AccessList) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::open(&directory.path().join("caelum.db")).expect("opens"));
        let queue: Arc<dyn Queue> =
            Arc::new(Embedded::open(&directory.path().join("queue.db"), 1 << 20).expect("opens"));
        let clock = Arc::new(ManualClock::new(NOW_MS));
        let ingest =
            Arc::new(Ingest::new(Arc::clone(&queue), Arc::clone(&store), Arc::clone(&clock) as _, config));
        let user = |name: &str, role| User {
            name: name.into(),
            role,
            password_hash: auth::hash_password("correct horse").expect("hashes"),
            created_at_ms: NOW_MS,
        };
        store.put_user(user("admin", Role::Admin)).await.expect("stored");
        store.put_user(user("looker", Role::Viewer)).await.expect("stored");
        let authority = Arc::new(Authority::create("Caelum test").expect("an authority"));
        let kept_keys: Arc<Mutex<Vec<ClusterKey>>> = Arc::default();
        let keep = Arc::clone(&kept_keys);
        let registrar = Registrar::open(enrol::Parts {
            store: Arc::clone(&store),
            authority: Arc::clone(&authority),
            clock: Arc::clone(&clock) as _,
            node_id: NodeId::parse("n-test").expect("valid"),
            cluster_id: "c-test".into(),
            cluster_name: "test".into(),
            keys: vec![enrol::new_key(1)],
            servers: Vec::new(),
            access,
            grant: None,
            persist_keys: Arc::new(move |keys| {
                *keep.lock().expect("held for a moment") = keys.to_vec();
                Ok(())
            }),
        })
        .await
        .expect("opens");
        // Whoever listens says where, which is known only then.
        registrar.set_servers(vec!["127.0.0.1:1".into()]);
        let machines: Arc<Mutex<HashMap<String, SocketAddr>>> = Arc::default();
        let known = Arc::clone(&machines);
        let trust = state::Trust {
            registrar: Arc::clone(&registrar),
            find_machine: Arc::new(move |id| known.lock().expect("held for a moment").get(id).copied()),
        };
        let limits = Limits { body_bytes_max: BODY_BYTES_MAX, requests_per_s: 0 };
        let gate = Gate::new(ingest, Arc::clone(&store), Arc::clone(&clock) as _, limits);
        let bus = Bus::default();
        let orders = Orders::new(Arc::clone(&store), bus.clone(), Arc::clone(&clock) as _);
        let cluster = Handle::detached(Roster::default());
        let desk = Desk::new(tasks::Parts {
            store: Arc::clone(&store),
            bus: bus.clone(),
            clock: Arc::clone(&clock) as _,
            server: "n-test".into(),
            roster: cluster.roster.clone(),
            thresholds: Thresholds::default(),
        });
        // Its loop does not run: what it is asked to do over the network waits for ever, and no test asks.
        let (ssh, _) = Ssh::start(ssh::Parts {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock) as _,
            roster: cluster.roster.clone(),
            thresholds: Thresholds::default(),
            keyring: Arc::new(Keyring::open(directory.path(), &[], "caelum-test", false).expect("opens")),
            user: "root".into(),
            port: 22,
            known_hosts: None,
            limits: Default::default(),
            output_max_bytes: 1 << 16,
            stop: Default::default(),
        });
        let packages = Builder::new(packages::Parts {
            store: Arc::clone(&store),
            registrar: Arc::clone(&registrar),
            clock: Arc::clone(&clock) as _,
            bus: bus.clone(),
            // A small program for this machine.
            artifacts: Artifacts::new(None, "/bin/sh".into()),
            version: "0.1.0",
            servers: vec!["hq.example.net:8080".into()],
            shared_store: None,
            mailboxes: vec![mailbox()],
            own_accounts: vec!["redis caelum".into()],
            cluster_id: "c-test".into(),
            signing: None,
        });
        let key = MasterKey::in_memory(Arc::clone(&store), &make_master_key()).expect("a key");
        let state = State::new(state::Parts {
            store,
            queue,
            gate,
            orders: Arc::new(orders),
            desk,
            ssh: Some(ssh),
            aggregator: None,
            bus,
            clock: Arc::clone(&clock) as _,
            node_id: NodeId::parse("n-test").expect("valid"),
            cluster_id: "c-test".into(),
            cluster_name: "test".into(),
            cluster,
            is_discovering: false,
            sweep: Vec::new(),
            backups: None,
            diagnoser: None,
            certificate_fingerprint: "00".into(),
            settings: state::Settings { minute_days: 30, session_ttl_s: 3600, allow_plaintext: false },
            stop: Default::default(),
            trust: Some(trust),
            fleet: None,
            packages: Some(packages),
            secrets: Arc::new(Secrets::new(key)),
            thresholds: Thresholds::default(),
        });
        Self {
            app: caelum_web::app(Arc::clone(&state)),
            state,
            clock,
            authority,
            registrar,
            machines,
            kept_keys,
            _directory: directory,
        }
    }

    /// A token with one scope; an ingest token speaks for `probe-1`.
    pub async fn token(&self, scope: Scope) -> String {
        let client_id = (scope == Scope::Ingest).then_some("probe-1");
        let (token, secret) =
            access::make_token("t", vec![scope], client_id, None, NOW_MS).expect("a valid wish");
        self.state.store.add_token(token).await.expect("stored");
        secret
    }

    pub async fn ask(&self, mut request: Request<Body>) -> (StatusCode, Response<()>, serde_json::Value) {
        let peer: SocketAddr = ([127, 0, 0, 1], 40_000).into();
        request.extensions_mut().insert(Transport { peer, is_tls: true, node: None });
        let response = self.app.clone().oneshot(request).await.expect("the router answers");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("the body ends").to_bytes();
        let json = serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::Null);
        (parts.status, Response::from_parts(parts, ()), json)
    }

    pub async fn get(&self, path: &str, token: &str) -> (StatusCode, serde_json::Value) {
        let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let (status, _, json) = self.ask(request.body(Body::empty()).expect("a request")).await;
        (status, json)
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: &serde_json::Value,
    ) -> (StatusCode, serde_json::Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json");
        let (status, _, json) =
            self.ask(request.body(Body::from(body.to_string())).expect("a request")).await;
        (status, json)
    }
}

/// An event of `probe-1` that has nothing wrong with it.
pub fn event(n: u64) -> serde_json::Value {
    serde_json::json!({
        "event_id": format!("0190b7a4-7a5c-7000-8000-{n:012x}"), "client_id": "probe-1", "ts_ms": NOW_MS,
        "schema_version": "1.1", "target": "https://example.net/",
        "network_context": {"interface_type": "ethernet", "vpn_enabled": false},
        "timings": {"dns_ms": 1.0, "tcp_ms": 2.0, "tls_ms": 3.0, "http_ttfb_ms": 4.0},
        "epoch": 7, "seq": n,
    })
}

/// A mailbox that is looked into.
fn mailbox() -> tokio::sync::watch::Receiver<caelum_roles::mailbox::View> {
    let view = caelum_roles::mailbox::View {
        kind: "redis",
        place: "redis://caelum@db:6379".into(),
        error: None,
        looked_at_ms: Some(NOW_MS),
        answered: 2,
        ignored: 1,
    };
    tokio::sync::watch::channel(view).1
}
