-- Aggregators that share the partitions. A beat that does not change is that of a dead one: each observer
-- tells by its own clock, so that no two clocks are compared.
create table aggregators (
    owner text primary key,
    beat integer not null,
    document text not null
) without rowid;

-- Event times at the two ends of each seen range, so that a gap can be placed in time.
alter table seen_ranges add column edges text not null default '[]';

-- Longer windows that must be merged again because a shorter one in them changed. The mark grows with each
-- change, so that one made while the merge ran is not forgotten.
create table stale_tiers (
    partition integer not null,
    width_ms integer not null,
    window_start_ms integer not null,
    client_id text not null,
    target text not null,
    family integer not null,
    mark integer not null,
    primary key (partition, width_ms, window_start_ms, client_id, target, family)
) without rowid;

-- What is known of an event kept aside: when, by which partition, and whether it is to be counted after all.
alter table dead_letters add column partition integer not null default 0;
alter table dead_letters add column kept_at_ms integer not null default 0;
alter table dead_letters add column state text not null default 'kept';
create index dead_letters_state on dead_letters (partition, state) where state = 'requested';
