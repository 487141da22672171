-- Sealed requests of machines that reach no server (keys q/00 to q/99), what servers answer (a/ID), and the sign by
-- which servers say that they look. Machines have an account that may call the two functions below and nothing else:
-- the functions run with the owner's rights and keep the bounds, whatever is sent.
create table mailbox (
    key text collate "C" primary key check (octet_length(key) <= 80),
    value text not null check (octet_length(value) <= 49152),
    expires_at_ms bigint not null
);

create function caelum_now_ms() returns bigint language sql volatile
    as 'select (extract(epoch from clock_timestamp()) * 1000)::bigint';

do $outer$
begin
    execute format($made$
        create function caelum_mailbox_post(slot integer, request text) returns boolean
        language plpgsql volatile security definer set search_path = pg_catalog, %1$I, pg_temp as $body$
        begin
            if slot is null or slot not between 0 and 99 or request is null or octet_length(request) > 16384 then
                return false;
            end if;
            insert into %1$I.mailbox as known (key, value, expires_at_ms)
                values ('q/' || lpad(slot::text, 2, '0'), request, %1$I.caelum_now_ms() + 120000)
                on conflict (key) do update set value = excluded.value, expires_at_ms = excluded.expires_at_ms
                    where known.expires_at_ms <= %1$I.caelum_now_ms();
            return found;
        end
        $body$
    $made$, current_schema());
    execute format($made$
        create function caelum_mailbox_read(wanted text) returns text
        language sql volatile security definer set search_path = pg_catalog, %1$I, pg_temp as $body$
            select value from %1$I.mailbox
            where key = wanted and (key = 'sign' or starts_with(key, 'a/')) and expires_at_ms > %1$I.caelum_now_ms()
        $body$
    $made$, current_schema());
end
$outer$;

revoke execute on function caelum_mailbox_post(integer, text), caelum_mailbox_read(text) from public;
