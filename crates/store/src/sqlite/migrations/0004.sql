-- What the newest commit of a partition was, so that one whose answer was lost is known again.
alter table partitions add column last_commit integer not null default 0;
