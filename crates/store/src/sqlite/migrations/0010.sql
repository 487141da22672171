-- Numbers of writes of keys: they grow over all keys, so that one that was removed and came back is told from
-- what it was before.
create table coordination_versions (newest integer not null);
insert into coordination_versions (newest) select coalesce(max(version), 0) from coordination;
