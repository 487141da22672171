-- Numbers of writes of keys: they grow over all keys, so that one that was removed and came back is told from
-- what it was before.
create sequence coordination_versions;
select setval('coordination_versions', (select coalesce(max(version), 0) + 1 from coordination));
