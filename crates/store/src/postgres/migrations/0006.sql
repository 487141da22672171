-- Packages that were built; whether one was used is what its join token says.
create table packages (
    package_id text primary key,
    built_at_ms bigint not null,
    document text not null
);
create index packages_built on packages (built_at_ms);
