-- Keys that hosts may show on SSH, as people accepted them; those that agents tell are in their nodes' records.
create table known_hosts (
    host text collate "C" not null,
    port integer not null,
    key text collate "C" not null,
    document text not null,
    primary key (host, port, key)
);

-- Machines without an agent that commands can be run on.
create table ssh_hosts (
    node_id text collate "C" primary key,
    name text collate "C" not null unique,
    document text not null
);
