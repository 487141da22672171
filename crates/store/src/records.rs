//! Everything a backend must do, in one list. [`Store`] hands each call to the backend behind it; every method
//! answers with [`StoreError`] where it did not happen.
//!
//! The list is the contract: each backend has a method of the same name and shape in the file of the same
//! noun, and a missing one does not compile.

use caelum_engine::task::Refusal;
use caelum_model::{
    UnixMs,
    access::{AuditEntry, Token, User},
    alert::{Alert, Notice, NoticeSettings},
    diagnosis::{Diagnosis, PairStatus},
    event::Family,
    id::{ClientId, NodeId, Offset, PartitionId, TargetId, TaskId},
    incident::Incident,
    join::{Enrolment, JoinToken},
    node::{Node, NodePoint, NodeSetting, Thresholds},
    package::Package,
    probe::ProbeSetting,
    rollup::{Rollup, RollupKey, SeenRanges},
    ssh::{KnownHost, SshHost},
    target::{Target, TargetOrigin},
    task::{OutputChunk, Schedule, Task},
};

use crate::{
    AdmitOutcome, AggregatorBeat, AggregatorRound, AlertQuery, AlertWrite, Backend, CommitOutcome,
    DeadLetter, DeadLetterCount, DeadLetterQuery, FactSwap, HistoryTier, IncidentQuery, KeptKey,
    NoticeOutcome, NoticeQuery, NoticeSwap, Ownership, PartitionStatus, PipelineTotals, ProbeSummary,
    ReadyClasses, RevisedRollup, RollupQuery, StaleTier, Store, StoreError, StoreHealth, StoreStatus,
    TaskCounts, TaskQuery, TaskStep, TaskWrote, TierCommit, WindowCommit,
};

macro_rules! answer {
    () => {
        ()
    };
    ($answer:ty) => {
        $answer
    };
}

macro_rules! records {
    ($($(#[doc = $doc:literal])+ fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $answer:ty)?;)+) => {
        impl Store {
            $(
                $(#[doc = $doc])+
                pub async fn $name(&self, $($argument: $kind),*) -> Result<answer!($($answer)?), StoreError> {
                    match &self.backend {
                        Backend::Sqlite(sqlite) => sqlite.$name($($argument),*).await,
                        Backend::Postgres(postgres) => postgres.$name($($argument),*).await,
                    }
                }
            )+
        }
    };
}

records! {
    // partitions
    /// Beats for an aggregator, and answers with everybody's beats and with the partitions as they stand.
    fn aggregator_round(owner: String, document: String) -> AggregatorRound;
    /// Everybody's beats and the partitions as they stand, without beating.
    fn aggregators() -> Vec<AggregatorBeat>;
    /// Forgets an aggregator, if it has not beaten since.
    fn forget_aggregator(owner: String, beat: u64) -> bool;
    /// Takes a partition for a new owner, if its fence is still the one seen (0 where there was no row): the
    /// fence grows, so that the owner before can commit nothing more.
    fn take_partition(partition: PartitionId, owner: String, seen_fence: u64) -> Option<Ownership>;
    /// Gives a partition up, so that another takes it without waiting for this owner's silence.
    fn release_partition(partition: PartitionId, owned: Ownership) -> bool;
    /// Forgets how far every partition has got, for another stream: what is counted stays counted, and whoever
    /// owns a partition loses it. Answers how many partitions there are.
    fn restart_offsets() -> usize;
    /// The partitions as they stand.
    fn partitions() -> Vec<PartitionStatus>;
    /// Sums over all partitions.
    fn pipeline_totals() -> PipelineTotals;

    // rollups
    /// Stores what an aggregator changed, if it still owns the partition and the offset is where it left it.
    /// A commit whose answer was lost may be given again, unchanged: it is stored once, and answered `Done`.
    fn commit_windows(partition: PartitionId, owned: Ownership, through: Offset, commit: WindowCommit) -> CommitOutcome;
    /// Rows of a partition whose windows start at or after a time.
    fn partition_rollups(partition: PartitionId, from_ms: UnixMs) -> Vec<Rollup>;
    /// Rows of a partition that have not settled, whatever their age.
    fn unsettled_rollups(partition: PartitionId) -> Vec<Rollup>;
    /// Rows under the given keys; keys without a row are left out.
    fn rollups_by_keys(keys: Vec<RollupKey>) -> Vec<Rollup>;
    /// Rows of a shorter length that lie in the given longer windows, in no particular order. Never stale.
    fn rollups_within(wholes: Vec<RollupKey>, part_width_ms: i64) -> Vec<Rollup>;
    /// Rows that match a query.
    fn rollups(query: RollupQuery) -> Vec<Rollup>;
    /// Rows written by commits after `rev`, oldest commit first.
    fn rollups_since(rev: i64, limit: usize) -> Vec<RevisedRollup>;
    /// Number of the newest commit, 0 where there is none.
    fn newest_rev() -> i64;
    /// Forgets windows of a length that start before a time; answers how many went. A backend may go by whole
    /// days, and then keep a window up to a day longer and forget more than `limit` at once.
    fn drop_rollups(width_ms: i64, before_ms: UnixMs, limit: usize) -> usize;

    // seen
    /// Seen ranges of a partition.
    fn seen_ranges(partition: PartitionId) -> Vec<SeenRanges>;
    /// Seen ranges of one probe.
    fn client_seen_ranges(partition: PartitionId, client_id: &ClientId) -> Vec<SeenRanges>;
    /// Ids of counted events without a sequence number, with the minute they were received in.
    fn seen_ids(partition: PartitionId) -> Vec<([u8; 16], i64)>;
    /// What each probe has sent, by probe.
    fn probes() -> Vec<ProbeSummary>;

    // dead_letters
    /// Events kept aside, newest first.
    fn dead_letters(query: DeadLetterQuery) -> Vec<DeadLetter>;
    /// How many events are kept aside, by reason and state.
    fn dead_letter_counts() -> Vec<DeadLetterCount>;
    /// Asks that events kept aside be counted after all; answers how many were asked for now. Those asked for
    /// before, or counted already, stay as they are.
    fn request_replay(ids: Vec<i64>) -> usize;
    /// Events of a partition that are to be counted after all, oldest first.
    fn requested_replays(partition: PartitionId, limit: usize) -> Vec<DeadLetter>;

    // tiers
    /// Longer windows of a partition that must be merged again, oldest and shortest first.
    fn stale_tiers(partition: PartitionId, width_ms: i64, limit: usize) -> Vec<StaleTier>;
    /// Stores merged windows, marks those they are part of, and takes back the marks that were worked off, if
    /// the fence is still the partition's.
    fn commit_tiers(partition: PartitionId, fence: u64, commit: TierCommit) -> CommitOutcome;

    // verdicts
    /// Replaces the verdicts of a pair on windows from `from_ms` on, and its standing, in one write.
    fn put_verdicts(status: PairStatus, from_ms: UnixMs, diagnoses: Vec<Diagnosis>);
    /// How every pair stands.
    fn pair_statuses() -> Vec<PairStatus>;
    /// Verdicts on windows in [from, to), oldest first.
    fn diagnoses(from_ms: UnixMs, to_ms: UnixMs, limit: usize) -> Vec<Diagnosis>;
    /// Verdicts on one pair on windows from a time on, oldest first.
    fn pair_diagnoses(client_id: &str, target: &str, family: Family, from_ms: UnixMs) -> Vec<Diagnosis>;
    // incidents
    /// Stores incidents as they stand now with the notices about them, and forgets those that a late window
    /// took back, in one write. A notice that is there already stays as it is.
    fn put_incidents(incidents: Vec<Incident>, withdrawn: Vec<String>, notices: Vec<Notice>);
    /// Incidents, newest first.
    fn incidents(query: IncidentQuery) -> Vec<Incident>;
    /// The incident with this id.
    fn incident(id: &str) -> Option<Incident>;
    /// Forgets incidents that were over before a time.
    fn drop_incidents(before_ms: UnixMs) -> usize;
    /// Forgets verdicts on windows from before a time.
    fn drop_diagnoses(before_ms: UnixMs) -> usize;
    /// Forgets how pairs stand that were judged last before a time.
    fn drop_pairs(before_ms: UnixMs) -> usize;

    // probes
    /// What is set for probes, by name; a probe without a setting has none here.
    fn probe_settings() -> Vec<ProbeSetting>;
    /// Sets it for one probe.
    fn put_probe_setting(setting: ProbeSetting);
    /// Forgets what was set for a probe. Answers false where nothing was.
    fn remove_probe_setting(client_id: &ClientId) -> bool;
    // targets
    /// Every target, by URL.
    fn targets() -> Vec<Target>;
    /// The target with this id.
    fn target(target_id: &TargetId) -> Option<Target>;
    /// Adds a target. A second one for the same URL is refused with [`StoreError::Exists`].
    fn add_target(target: Target);
    /// Replaces a target by its id. Answers false where there is none of that id; a URL that another target
    /// has is refused with [`StoreError::Exists`].
    fn update_target(target: Target) -> bool;
    /// Removes a target; its rollups stay. Answers false where there is none of that id.
    fn remove_target(target_id: &TargetId) -> bool;
    /// Replaces every target of the given origins by a new list; a URL that another origin already holds is
    /// left to that origin.
    fn replace_targets(origins: Vec<TargetOrigin>, targets: Vec<Target>);

    // nodes
    /// Stores a node, and the point its sample gives, in one write.
    fn put_node(node: Node, point: Option<NodePoint>);
    /// Every node, by name.
    fn nodes() -> Vec<Node>;
    /// The node with this id or, failing that, this name.
    fn node(id_or_name: &str) -> Option<Node>;
    /// Forgets a node and its history. Answers false where there is none of that id.
    fn remove_node(node_id: &NodeId) -> bool;
    /// A node's history in [from, to), oldest first, thinned to at most `max_points` by taking the mean of
    /// equal stretches of time (the largest value for temperatures).
    fn node_points(node_id: &NodeId, from_ms: UnixMs, to_ms: UnixMs, max_points: usize) -> Vec<NodePoint>;
    /// Mean processor use of every node in equal stretches of [from, to), percent: the node, where the stretch
    /// begins, and the mean; by node, oldest first.
    fn node_loads(from_ms: UnixMs, to_ms: UnixMs, stretch_ms: i64) -> Vec<(NodeId, UnixMs, f64)>;
    /// Forgets history from before a time.
    fn drop_node_points(before_ms: UnixMs) -> usize;
    /// Merges the longer steps of [from, to) of every node's history from the next finer ones, again and again
    /// with the same result; answers how many there are.
    fn merge_node_tier(tier: HistoryTier, from_ms: UnixMs, to_ms: UnixMs) -> usize;
    /// Forgets steps of a length from before a time.
    fn drop_node_tier(tier: HistoryTier, before_ms: UnixMs) -> usize;

    // node_settings
    /// What is set for nodes, by id; a node without a setting has none here.
    fn node_settings() -> Vec<NodeSetting>;
    /// What is set for one node, if anything is.
    fn node_setting(node_id: &NodeId) -> Option<NodeSetting>;
    /// Sets it for one node.
    fn put_node_setting(setting: NodeSetting);

    // alerts
    /// Stores changes of alerts and the notices about them, and takes notices back that were not tried yet
    /// and are about these subjects; all of it or, where another was faster with one of them, nothing and
    /// false.
    fn put_alerts(writes: Vec<AlertWrite>, notices: Vec<Notice>, withdrawn: Vec<String>) -> bool;
    /// Alerts, newest first.
    fn alerts(query: AlertQuery) -> Vec<Alert>;
    /// The alert with this id.
    fn alert(alert_id: &str) -> Option<Alert>;
    /// Forgets alerts that were over before a time.
    fn drop_alerts(before_ms: UnixMs) -> usize;

    // notices
    /// Takes notices that are due and that nobody else has taken, until a time; each counts as an attempt. What
    /// is told of one subject goes to a channel in the order of the changes: a recovery waits for its failure.
    fn claim_notices(owner: String, now_ms: UnixMs, until_ms: UnixMs, limit: usize) -> Vec<Notice>;
    /// Says what became of a notice that this owner took. Answers false where it is no longer the owner's.
    fn settle_notice(notice_id: String, owner: String, outcome: NoticeOutcome) -> bool;
    /// Notices, newest first.
    fn notices(query: NoticeQuery) -> Vec<Notice>;
    /// Forgets notices from before a time, whatever became of them.
    fn drop_notices(before_ms: UnixMs) -> usize;
    /// Who is told, and when not; none where nobody set it.
    fn notice_settings() -> Option<NoticeSettings>;
    /// Sets who is told, and when not.
    fn put_notice_settings(settings: NoticeSettings);

    // people
    /// Stores a user, replacing one of the same name.
    fn put_user(user: User);
    /// A user by name.
    fn user(name: String) -> Option<User>;
    /// Every user, by name.
    fn users() -> Vec<User>;
    /// Stores a new token.
    fn add_token(token: Token);
    /// The token with this hash, revoked and expired ones included.
    fn token_by_hash(secret_sha256: [u8; 32]) -> Option<Token>;
    /// Every token, newest first.
    fn tokens() -> Vec<Token>;
    /// Revokes a token. Answers false where there is none of that id.
    fn revoke_token(token_id: String, now_ms: UnixMs) -> bool;

    // enrolments
    /// Stores a new join token.
    fn add_join_token(token: JoinToken);
    /// The newest join tokens, used up, expired and revoked ones included.
    fn join_tokens(limit: usize) -> Vec<JoinToken>;
    /// A join token by its id.
    fn join_token(token_id: String) -> Option<JoinToken>;
    /// Revokes a join token. Answers false where there is none of that id.
    fn revoke_join_token(token_id: String, now_ms: UnixMs) -> bool;
    /// Admits a node, and takes one use of the token that admits it, both or neither. Everything is checked
    /// again here: of two that hold the same last use, one is admitted.
    ///
    /// The same node with the same key may be admitted again; its enrolment is then replaced.
    fn admit(enrolment: Enrolment, token_id: Option<String>, now_ms: UnixMs) -> AdmitOutcome;
    /// Every node that was admitted, revoked ones included.
    fn enrolments() -> Vec<Enrolment>;
    /// The node that was admitted with this key.
    fn enrolment_by_key(key_sha256: String) -> Option<Enrolment>;
    /// Shuts a node out for good. Answers false where none of that id was admitted.
    fn revoke_node(node_id: &NodeId, now_ms: UnixMs) -> bool;

    // packages
    /// Stores a package that was built.
    fn add_package(package: Package);
    /// The newest packages.
    fn packages(limit: usize) -> Vec<Package>;
    /// The package with this id.
    fn package(package_id: &str) -> Option<Package>;
    /// Forgets a package; its join token stays as it is. Answers false where there is none of that id.
    fn remove_package(package_id: &str) -> bool;

    // tasks
    /// Adds tasks, and answers them as they stand: one whose idempotency key is known is the one that has it;
    /// what it waits for is counted here, and where some of that did not end well it is cancelled. `lines` has
    /// what the audit log is to say of each task in turn, or nothing: what is said of those that are new is
    /// written with them, both or neither.
    fn add_tasks(tasks: Vec<Task>, lines: Vec<AuditEntry>) -> Vec<Task>;
    /// Lets things happen to tasks, in order, in one write: each is what the engine says, or refused and then
    /// nothing. Tasks that waited for one that ends are told in the same write. `chance` is any number.
    fn step_tasks(steps: Vec<TaskStep>, now_ms: UnixMs, chance: u64) -> Vec<Result<Task, Refusal>>;
    /// The classes of everything that waits for nothing but a node or its time, and when the next of it that
    /// cannot be given to a node now can be.
    fn ready_classes(now_ms: UnixMs, limit: usize) -> ReadyClasses;
    /// The foremost tasks of each class that can be given to a node now, at most `limit` of each; in the order
    /// in which they are to be given.
    fn ready_tasks(classes: Vec<String>, now_ms: UnixMs, limit: usize) -> Vec<Task>;
    /// Tasks whose lease is over, the longest over first.
    fn expired_leases(now_ms: UnixMs, limit: usize) -> Vec<TaskId>;
    /// Tasks that a node has.
    fn worker_tasks(node_id: &NodeId) -> Vec<Task>;
    /// Tasks that were called off and that a node still has.
    fn cancelling_tasks(limit: usize) -> Vec<Task>;
    /// Tasks that match a query, newest first.
    fn tasks(query: TaskQuery) -> Vec<Task>;
    /// The task with this id.
    fn task(task_id: &TaskId) -> Option<Task>;
    /// How many tasks there are.
    fn task_counts() -> TaskCounts;
    /// Keeps what tasks wrote; answers for each whether it came under the task's newest fencing number. What is
    /// there already, or is too much, is not kept and answered the same.
    fn append_output(wrote: Vec<TaskWrote>) -> Vec<bool>;
    /// What an attempt wrote after a number, in order.
    fn task_output(task_id: &TaskId, fence: u64, after_seq: Option<u64>, limit: usize) -> Vec<OutputChunk>;
    /// Forgets tasks that reached a final state before a time, and their output.
    fn drop_tasks(before_ms: UnixMs, limit: usize) -> usize;

    // schedules
    /// Every schedule, by name.
    fn schedules() -> Vec<Schedule>;
    /// The schedule with this id.
    fn schedule(schedule_id: &str) -> Option<Schedule>;
    /// Stores a schedule, replacing one of the same id.
    fn put_schedule(schedule: Schedule);
    /// Removes a schedule; its tasks stay. Answers false where there is none of that id.
    fn remove_schedule(schedule_id: &str) -> bool;
    /// Schedules whose next time has come.
    fn due_schedules(now_ms: UnixMs, limit: usize) -> Vec<Schedule>;
    /// Replaces a schedule and adds the task that comes from it, both or neither, if its next time is still the
    /// one seen: of two that would do it one does.
    fn fire_schedule(schedule: Schedule, seen_next_at: Option<UnixMs>, task: Option<Task>) -> bool;

    // ssh
    /// Every key that was accepted, by host.
    fn known_hosts() -> Vec<KnownHost>;
    /// Keys that were accepted of one host.
    fn known_hosts_of(host: &str, port: u16) -> Vec<KnownHost>;
    /// Accepts a key; one that was accepted stays accepted, by whoever said so last.
    fn put_known_host(known: KnownHost);
    /// Forgets the keys of a host, or one of them; answers how many went.
    fn forget_known_hosts(host: &str, port: u16, key: Option<String>) -> usize;
    /// Every host without an agent, by name.
    fn ssh_hosts() -> Vec<SshHost>;
    /// Adds a host without an agent; answers false where another has its name or id.
    fn add_ssh_host(host: SshHost) -> bool;
    /// Removes a host without an agent; answers false where there is none of that id.
    fn remove_ssh_host(node_id: &NodeId) -> bool;

    // settings
    /// A fact about the store, such as the id of this node.
    fn fact(key: &'static str) -> Option<String>;
    /// Stores a fact about the store.
    fn put_fact(key: &'static str, value: String);
    /// Stores a fact unless it is there already; answers what is there then.
    fn claim_fact(key: &'static str, value: String) -> String;
    /// Replaces a fact if it is still what was seen.
    fn replace_fact(key: &'static str, seen: String, value: String) -> bool;
    /// Replaces facts and the settings of notices in one transaction, if all of them are still what was seen.
    /// Whoever stores settings by [`Store::put_notice_settings_under`] the first of these facts comes before
    /// that, and is seen, or after it, and is refused.
    fn reseal(facts: Vec<FactSwap>, notices: NoticeSwap) -> bool;
    /// Sets who is told, and when not, if a fact is still what was seen.
    fn put_notice_settings_under(settings: NoticeSettings, key: &'static str, seen: String) -> bool;
    /// The thresholds set at run time, if any were.
    fn thresholds() -> Option<Thresholds>;
    /// Stores the thresholds set at run time.
    fn put_thresholds(thresholds: Thresholds);
    /// Adds a line to the audit log.
    fn audit(entry: AuditEntry);
    /// The newest lines of the audit log before a time, newest first.
    fn audit_log(before_ms: UnixMs, limit: usize) -> Vec<AuditEntry>;

    // coordination
    /// Stores a value for a time, whatever was under the key before, and answers the number of this write.
    /// Numbers grow over all keys. Where the records are on a server, its clock says when a time is over, and
    /// `now_ms` means nothing; the same for all of these.
    fn put_key(key: String, value: String, now_ms: UnixMs, lives_ms: i64) -> u64;
    /// What is under a key, unless its time is over.
    fn key(key: String, now_ms: UnixMs) -> Option<KeptKey>;
    /// Keys with a prefix that still live, in order.
    fn keys(prefix: String, now_ms: UnixMs, limit: usize) -> Vec<KeptKey>;
    /// Stores a value if the last write of the key is still the one seen, `None` for "nothing lives there";
    /// answers the number of this write, or nothing where another was faster.
    fn compare_and_put_key(key: String, seen: Option<u64>, value: String, now_ms: UnixMs, lives_ms: i64) -> Option<u64>;
    /// How many keys with a prefix still live.
    fn count_keys(prefix: String, now_ms: UnixMs) -> usize;
    /// Removes a key.
    fn delete_key(key: String);
    /// Removes a key if its last write is still the one seen.
    fn delete_key_at(key: String, seen: u64) -> bool;
    /// Removes every key that starts with a prefix and holds this value.
    fn delete_keys_with_value(prefix: String, value: String) -> usize;
    /// Removes what has expired.
    fn sweep_keys(now_ms: UnixMs) -> usize;

    // mod
    /// What is wrong with the database, or with how it is set; empty where all is well.
    fn check() -> Vec<String>;
    /// Looks whether the store answers, and how it stands.
    fn health() -> StoreHealth;
    /// How large the store is, and what lies where.
    fn status() -> StoreStatus;
}
