-- Both directions of a train, uploads, and the line under load.
alter table rollups add column delay_out blob;
alter table rollups add column delay_back blob;
alter table rollups add column loss_out blob;
alter table rollups add column loss_back blob;
alter table rollups add column upload blob;
alter table rollups add column loaded blob;

-- What is set for a probe, as a JSON document.
create table probe_settings (
    client_id text primary key,
    document text not null
);

-- Incidents: the document says it all, the columns are what lists are cut by.
create table incidents (
    id text primary key,
    label text not null,
    entity_type text not null,
    entity text not null,
    opened_window_ms integer not null,
    closed_window_ms integer,
    document text not null
);
create index incidents_opened on incidents (opened_window_ms);
create index incidents_open on incidents (opened_window_ms) where closed_window_ms is null;
