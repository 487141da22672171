-- Packages that were built; whether one was used is what its join token says.
create table packages (
    package_id text primary key,
    built_at_ms integer not null,
    document text not null
) strict;
create index packages_built on packages (built_at_ms);
