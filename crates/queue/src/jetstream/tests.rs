//! The queue on a real server, and on three, which are killed, frozen, filled and replaced.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use caelum_model::id::{Offset, PartitionId};
use caelum_testkit::{
    nats::{NatsCluster, NatsServer},
    wait,
};
use tokio::{
    sync::Mutex,
    task::{JoinSet, block_in_place},
};

use crate::{
    Address, AppendError, NewRecord, OpenError, Options, Queue, QueueError,
    contract::{self, all_texts, record, texts},
    open,
};

const OPTIONS: Options = Options { partitions: 10, max_bytes: 64 << 20 };
/// Most time for what takes a moment on a machine that is busy with other tests.
const LONG: Duration = Duration::from_secs(60);

async fn try_open(url: &str, options: Options) -> Result<Arc<dyn Queue>, OpenError> {
    let address: Address = url.parse().expect("an address");
    open(&address, options).await
}

async fn opened(url: &str) -> Arc<dyn Queue> {
    try_open(url, OPTIONS).await.expect("opens")
}

fn server() -> NatsServer {
    block_in_place(NatsServer::start).expect("nats-server starts")
}

fn keyed(key: &str) -> NewRecord {
    NewRecord { key: key.to_owned(), ..record(1, key) }
}

/// A way to the server that is not ours.
async fn tool(server: &NatsServer) -> async_nats::jetstream::Context {
    async_nats::jetstream::new(async_nats::connect(server.url()).await.expect("connects"))
}

struct Fixture {
    url: String,
}

#[async_trait]
impl contract::Fixture for Fixture {
    async fn open(&self, max_bytes: u64) -> Box<dyn Queue> {
        let address = match self.url.parse() {
            Ok(Address::Nats(address)) => address,
            other => panic!("{other:?}"),
        };
        let options = Options { max_bytes, ..OPTIONS };
        Box::new(super::JetStream::open(&address, options).await.expect("opens"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_on_jetstream_keeps_the_contract() {
    let server = server();
    let streams = AtomicUsize::new(0);
    contract::run(|| Fixture {
        url: format!("{}?stream=S{}", server.url(), streams.fetch_add(1, Ordering::Relaxed)),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_keeps_what_it_acknowledged_and_the_client_goes_on() {
    let mut server = server();
    let queue = opened(&server.url()).await;
    let mut expected = Vec::new();
    for n in 0..50 {
        queue.append(vec![record(1, &format!("{n}"))]).await.expect("appended");
        expected.push(format!("{n}"));
    }
    block_in_place(|| server.kill());
    let began = Instant::now();
    let refusal = queue.append(vec![keyed("50")]).await.expect_err("nobody is there");
    assert!(matches!(refusal, AppendError::Unavailable { .. }), "{refusal:?}");
    assert!(began.elapsed() < LONG / 4, "it took {:?}", began.elapsed());
    assert!(matches!(queue.read(PartitionId(1), Offset(0), 9).await, Err(QueueError::Unavailable { .. })));
    block_in_place(|| server.restart()).expect("starts again");
    wait::until_answered("the queue takes records again", LONG, async || {
        queue.append(vec![keyed("50")]).await.ok()
    })
    .await;
    expected.push("50".to_owned());
    assert_eq!(all_texts(queue.as_ref(), 1).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_unavailable_and_comes_back_without_a_restart() {
    let mut server = server();
    let queue = opened(&server.url()).await;
    queue.append(vec![record(1, "a")]).await.expect("appended");
    server.process().freeze();
    let began = Instant::now();
    let (refusal, read, trim) = tokio::join!(
        queue.append(vec![keyed("b")]),
        queue.read(PartitionId(1), Offset(0), 9),
        queue.trim(PartitionId(2), Offset(1))
    );
    assert!(matches!(refusal, Err(AppendError::Unavailable { .. })), "{refusal:?}");
    assert!(matches!(read, Err(QueueError::Unavailable { .. })), "{read:?}");
    assert!(matches!(trim, Err(QueueError::Unavailable { .. })), "{trim:?}");
    assert!(began.elapsed() < LONG / 4, "it took {:?}", began.elapsed());
    server.process().thaw();
    wait::until_answered("the queue takes records again", LONG, async || {
        queue.append(vec![keyed("b")]).await.ok()
    })
    .await;
    // What was refused may have arrived all the same, and is still there once.
    assert_eq!(texts(queue.as_ref(), 1, Offset(0)).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_sent_again_is_kept_once_and_has_the_same_offset() {
    let server = server();
    let queue = opened(&server.url()).await;
    let first = queue.append(vec![keyed("a"), keyed("b")]).await.expect("appended");
    assert_eq!(queue.append(vec![keyed("a"), keyed("b")]).await.expect("appended"), first);
    let other = NewRecord { partition: PartitionId(2), ..keyed("a") };
    assert!(queue.append(vec![other]).await.expect("appended")[0] > first[1]);
    assert_eq!(all_texts(queue.as_ref(), 1).await, ["a", "b"]);
    assert_eq!(all_texts(queue.as_ref(), 2).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_at_another_server_of_caelum_is_woken_too() {
    let server = server();
    let (one, other) = (opened(&server.url()).await, opened(&server.url()).await);
    let mut appended = other.appended();
    appended.mark_unchanged();
    let woken = async {
        tokio::time::timeout(LONG, appended.changed()).await.expect("woken in time").expect("still open");
    };
    let (_, offsets) = tokio::join!(woken, one.append(vec![record(1, "a")]));
    offsets.expect("appended");
    assert_eq!(texts(other.as_ref(), 1, Offset(0)).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_the_server_forgot_is_made_again() {
    let server = server();
    let queue = opened(&server.url()).await;
    let first = queue.append(vec![record(1, "a")]).await.expect("appended")[0];
    assert_eq!(texts(queue.as_ref(), 1, Offset(0)).await, ["a"]);
    let tool = tool(&server).await;
    let stream = tool.get_stream("CAELUM_EVENTS").await.expect("is there");
    let mut names = stream.consumer_names();
    while let Some(name) = futures_util::StreamExt::next(&mut names).await {
        stream.delete_consumer(&name.expect("a name")).await.expect("deleted");
    }
    queue.append(vec![record(1, "b")]).await.expect("appended");
    assert_eq!(texts(queue.as_ref(), 1, first).await, ["b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_deleted_and_made_anew_is_a_loud_error() {
    let server = server();
    let queue = opened(&server.url()).await;
    queue.append(vec![record(1, "a")]).await.expect("appended");
    tool(&server).await.delete_stream("CAELUM_EVENTS").await.expect("deleted");
    let refusal = queue.append(vec![record(1, "b")]).await.expect_err("the stream is gone");
    assert!(matches!(refusal, AppendError::Unavailable { .. }), "{refusal:?}");
    let anew = opened(&server.url()).await;
    anew.append(vec![record(1, "c")]).await.expect("appended");
    wait::until_answered("both sides of the queue refuse", LONG, async || {
        let read = queue.read(PartitionId(1), Offset(0), 9).await;
        let appended = queue.append(vec![record(1, "d")]).await;
        match (read, appended) {
            (Err(QueueError::Backend { source, .. }), Err(AppendError::Backend { .. })) => {
                assert!(source.to_string().contains("made anew"), "{source}");
                Some(())
            }
            _ => None,
        }
    })
    .await;
    assert_ne!(anew.identity(), queue.identity());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_before_what_was_read_of_it_is_a_loud_error() {
    let server = server();
    let queue = opened(&server.url()).await;
    let newest = queue.append(vec![record(1, "a")]).await.expect("appended")[0];
    assert_eq!(texts(queue.as_ref(), 1, newest).await, [""; 0]);
    let beyond = Offset(newest.0 + 1);
    let error = wait::until_answered("it is sure", LONG, async || {
        match queue.read(PartitionId(1), beyond, 9).await {
            Err(QueueError::Backend { source, .. }) => Some(source),
            Err(QueueError::Unavailable { .. }) => None,
            other => panic!("{other:?}"),
        }
    })
    .await;
    assert!(error.to_string().contains("ends at 1, before 2"), "{error}");
    assert!(matches!(queue.append(vec![record(1, "b")]).await, Err(AppendError::Backend { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_other_partitions_is_refused_and_left_as_it_is() {
    let server = server();
    drop(opened(&server.url()).await);
    let error = try_open(&server.url(), Options { partitions: 4, ..OPTIONS }).await.err().expect("refused");
    assert!(
        error.to_string().contains("10 subjects") && error.to_string().contains("4 partitions"),
        "{error}"
    );
    let queue =
        try_open(&server.url(), Options { max_bytes: 1, ..OPTIONS }).await.expect("another bound is fine");
    queue.append(vec![record(9, "a")]).await.expect("the stream's own bound holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_for_the_stream_is_told_of_with_what_to_do() {
    let server = block_in_place(|| NatsServer::start_with_room("16MB")).expect("nats-server starts");
    let error = try_open(&server.url(), OPTIONS).await.err().expect("refused").to_string();
    assert!(error.contains("no room for 64 MiB") && error.contains("server.queue_max_mb"), "{error}");
    let small = Options { max_bytes: 8 << 20, ..OPTIONS };
    let queue = try_open(&server.url(), small).await.expect("a smaller stream has room");
    queue.append(vec![record(9, "a")]).await.expect("appended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_asked_for_and_a_wrong_one_is_said_at_once_and_not_repeated() {
    let login = "authorization { user: me, password: \"s:cret\" }";
    let server = block_in_place(|| NatsServer::start_with(login)).expect("nats-server starts");
    let with = |login: &str| format!("nats://{login}@127.0.0.1:{}", server.port());
    opened(&with("me:s%3Acret")).await.append(vec![record(1, "a")]).await.expect("appended");
    let error = try_open(&with("me:wr0ng"), OPTIONS).await.err().expect("refused").to_string();
    assert!(error.contains("does not let us in") && !error.contains("wr0ng"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_with_a_server_whose_authority_is_named_and_with_no_other() {
    let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, certificate.cert.pem()).expect("written");
    std::fs::write(&key, certificate.signing_key.serialize_pem()).expect("written");
    let (cert, key) = (cert.display(), key.display());
    let tls = format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\" }}");
    let server = block_in_place(|| NatsServer::start_with(&tls)).expect("nats-server starts");
    let place = format!("tls://127.0.0.1:{}", server.port());
    let queue = opened(&format!("{place}?ca={cert}")).await;
    queue.append(vec![record(1, "a")]).await.expect("appended");
    let error = try_open(&place, OPTIONS).await.err().expect("refused");
    assert!(error.to_string().contains("name its authority"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_replicas_than_servers_are_refused_with_what_the_server_says() {
    let server = server();
    let error = try_open(&format!("{}?replicas=3", server.url()), OPTIONS).await.err().expect("refused");
    assert!(error.to_string().contains("replicas > 1 not supported"), "{error}");
}

/// Appends records of its own, each until it is acknowledged, and answers with what was.
async fn write(
    queue: Arc<dyn Queue>,
    writer: usize,
    count: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Vec<String> {
    let mut kept = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{writer}-{}", kept.len());
        match queue.append(vec![keyed(&key)]).await {
            Ok(_) => {
                kept.push(key);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(AppendError::Unavailable { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    kept
}

/// Reads on and on, and keeps what it was given.
async fn follow(queue: Arc<dyn Queue>, given: Arc<Mutex<Vec<String>>>) {
    let (mut after, mut appended) = (Offset(0), queue.appended());
    loop {
        match queue.read(PartitionId(1), after, 100).await {
            Ok(records) if records.is_empty() => appended.changed().await.expect("the queue is open"),
            Ok(records) => {
                after = records.last().map_or(after, |last| last.offset);
                let texts = records.iter().map(|record| String::from_utf8_lossy(&record.bytes).into_owned());
                given.lock().await.extend(texts);
            }
            Err(QueueError::Unavailable { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled_while_a_server_of_three_dies_and_comes_back() {
    let mut cluster = block_in_place(|| NatsCluster::start(3)).expect("a cluster starts");
    let queue = opened(&cluster.url()).await;
    let (count, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let given = Arc::new(Mutex::new(Vec::new()));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        writers.spawn(write(Arc::clone(&queue), writer, Arc::clone(&count), Arc::clone(&stop)));
    }
    let mut follower = JoinSet::new();
    follower.spawn(follow(Arc::clone(&queue), Arc::clone(&given)));
    let more = async |records: usize| {
        let goal = count.load(Ordering::Relaxed) + records;
        let what = format!("{goal} records are acknowledged");
        wait::until_answered(&what, LONG, async || (count.load(Ordering::Relaxed) >= goal).then_some(()))
            .await;
    };
    more(100).await;
    let stream = tool(&cluster.nodes[0]).await.get_stream("CAELUM_EVENTS").await.expect("is there");
    let config = &stream.cached_info().config;
    assert_eq!((config.num_replicas, config.subjects.len()), (3, 10));
    let leader = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
    let leader =
        cluster.nodes.iter().position(|node| Some(node.name()) == leader.as_deref()).expect("a leader");
    block_in_place(|| cluster.nodes[leader].kill());
    let before = count.load(Ordering::Relaxed);
    more(100).await;
    wait::until_answered("reads go on without the node", LONG, async || {
        (given.lock().await.len() > before).then_some(())
    })
    .await;
    block_in_place(|| cluster.restart(leader)).expect("the node comes back");
    more(100).await;
    stop.store(true, Ordering::Relaxed);
    let mut kept = BTreeSet::new();
    while let Some(joined) = writers.join_next().await {
        kept.extend(joined.expect("no writer panics"));
    }
    let given = wait::until_answered("everything is read", LONG, async || {
        let given = given.lock().await;
        (given.len() >= kept.len()).then(|| given.clone())
    })
    .await;
    assert_eq!(given.iter().cloned().collect::<BTreeSet<_>>(), kept, "what is read is what was acknowledged");
    assert_eq!(given.len(), kept.len(), "and once");
    let again: BTreeSet<String> = all_texts(queue.as_ref(), 1).await.into_iter().collect();
    assert_eq!(again, kept, "and it is all still there");
    follower.abort_all();
}
