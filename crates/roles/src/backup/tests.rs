//! Backups of a directory of one's own, put back elsewhere; no process runs here.

use std::sync::Arc;

use caelum_drivers::clock::ManualClock;
use caelum_model::id::PartitionId;
use caelum_queue::{Embedded, NewRecord, Queue as _};
use caelum_store::STREAM;

use super::*;

const DAY_MS: i64 = 86_400_000;

struct Home {
    folder: tempfile::TempDir,
    store: Arc<Store>,
    queue: Embedded,
    clock: Arc<ManualClock>,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let secrets = folder.path().join("data/secrets");
        fs::create_dir_all(&secrets).expect("made");
        fs::write(secrets.join("ca.key"), "a key").expect("written");
        let store = Store::open(&folder.path().join("data/caelum.db")).expect("opens");
        let queue = Embedded::open(&folder.path().join("data/queue.db"), 1 << 30).expect("opens");
        Self { folder, store: Arc::new(store), queue, clock: Arc::new(ManualClock::new(1_795_281_300_000)) }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn backups(&self, every_h: u64) -> Arc<Backups> {
        Backups::new(Parts {
            data: self.data(),
            store: Arc::clone(&self.store),
            address: Address::Sqlite(self.data().join("caelum.db")),
            queue: Some(self.data().join("queue.db")),
            plan: Plan { directory: self.folder.path().join("backups"), every_h, keep_days: 7 },
            clock: self.clock.clone(),
            version: "1",
            node_id: "n-1".to_owned(),
            cluster_name: "home".to_owned(),
        })
    }

    async fn append(&self, text: &str) {
        let record = NewRecord {
            partition: PartitionId(3),
            key: text.to_owned(),
            events: 1,
            bytes: text.as_bytes().to_vec().into(),
        };
        self.queue.append(vec![record]).await.expect("appended");
    }
}

#[tokio::test]
async fn what_was_backed_up_comes_back_elsewhere_with_its_secrets_and_its_queue_as_another_stream() {
    let home = Home::new();
    home.store.put_fact("colour", "blue".to_owned()).await.expect("kept");
    home.store.put_fact(STREAM, home.queue.identity()).await.expect("kept");
    home.append("accepted").await;
    let backups = home.backups(0);
    let made = backups.make().await.expect("made");
    assert_eq!(backups.list().expect("listed"), std::slice::from_ref(&made));
    home.store.put_fact("colour", "red".to_owned()).await.expect("kept");

    let file = home.folder.path().join("backups").join(&made.name);
    let there = home.folder.path().join("there");
    let restored = restore(&file, &there, false).await.expect("restored");
    assert_eq!((restored.aside, restored.dump), (None, None));
    assert_eq!(fs::read_to_string(there.join("secrets/ca.key")).expect("there"), "a key");
    let store = Store::open(&there.join("caelum.db")).expect("opens");
    assert_eq!(store.fact("colour").await.expect("read").as_deref(), Some("blue"));
    assert_eq!(store.fact(STREAM).await.expect("read").as_deref(), Some(""), "the next start names it");
    let queue = Embedded::open(&there.join("queue.db"), 1 << 30).expect("opens");
    assert_ne!(queue.identity(), home.queue.identity());
    let records = queue.read(PartitionId(3), caelum_model::id::Offset(0), 10).await.expect("read");
    assert_eq!(records.len(), 1);
    let left: Vec<_> = fs::read_dir(&there).expect("read").filter_map(Result::ok).collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')), "{left:?}");
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_set_aside_whole_where_that_is_asked_for() {
    let home = Home::new();
    home.store.put_fact("colour", "blue".to_owned()).await.expect("kept");
    let backups = home.backups(0);
    let made = backups.make().await.expect("made");
    home.store.put_fact("colour", "red".to_owned()).await.expect("kept");
    home.store.close();
    let file = home.folder.path().join("backups").join(&made.name);
    let refused = restore(&file, &home.data(), false).await;
    assert!(matches!(refused, Err(BackupError::Occupied(_))), "{refused:?}");
    for number in 1..=2 {
        let restored = restore(&file, &home.data(), true).await.expect("restored");
        let aside = restored.aside.expect("set aside");
        assert!(aside.ends_with(format!("before-restore-{number}")));
        let before = Store::open(&aside.join("caelum.db")).expect("opens");
        let colour = if number == 1 { "red" } else { "blue" };
        assert_eq!(before.fact("colour").await.expect("read").as_deref(), Some(colour));
    }
}

#[tokio::test]
async fn one_is_made_at_a_time_and_old_ones_go_once_there_is_a_newer() {
    let home = Home::new();
    let backups = home.backups(24);
    let begin_ms = home.clock.now_ms();
    assert_eq!(backups.due_ms(), Some(begin_ms), "there is none yet");
    for day in 0..10 {
        home.clock.set(begin_ms + day * DAY_MS);
        backups.make().await.expect("made");
    }
    assert_eq!(backups.due_ms(), Some(begin_ms + 10 * DAY_MS));
    let kept = backups.list().expect("listed");
    assert_eq!(kept.len(), 8, "today's, and seven days': {kept:?}");
    let held = backups.turn.acquire().await.expect("it is never closed");
    assert!(backups.is_busy());
    assert!(matches!(backups.make().await, Err(BackupError::Busy)));
    drop(held);
    assert_eq!(home.backups(0).due_ms(), None, "none is made by itself");
}

#[tokio::test]
async fn a_backup_that_was_harmed_is_not_restored_and_nothing_is_left_of_the_attempt() {
    let home = Home::new();
    let made = home.backups(0).make().await.expect("made");
    let file = home.folder.path().join("backups").join(&made.name);
    let whole = fs::read(&file).expect("read");
    fs::write(&file, &whole[..whole.len() / 2]).expect("written");
    assert!(verify(&file).await.is_err());
    let there = home.folder.path().join("there");
    assert!(restore(&file, &there, false).await.is_err());
    assert_eq!(fs::read_dir(&there).expect("made").count(), 0);
    let last = home.backups(0);
    fs::remove_dir_all(home.data().join("secrets")).expect("removed");
    assert!(last.make().await.is_err());
    assert!(last.last().error.expect("told").contains("secrets"));
}
