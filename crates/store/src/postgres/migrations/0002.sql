-- Both directions of a train, uploads, and the line under load.
alter table rollups
    add column delay_out bytea,
    add column delay_back bytea,
    add column loss_out bytea,
    add column loss_back bytea,
    add column upload bytea,
    add column loaded bytea;

-- What is set for a probe, as a JSON document.
create table probe_settings (
    client_id text collate "C" primary key,
    document text not null
);

-- Incidents: the document says it all, the columns are what lists are cut by.
create table incidents (
    id text collate "C" primary key,
    label text not null,
    entity_type text not null,
    entity text collate "C" not null,
    opened_window_ms bigint not null,
    closed_window_ms bigint,
    document text not null
);
create index incidents_opened on incidents (opened_window_ms);
create index incidents_open on incidents (opened_window_ms) where closed_window_ms is null;
