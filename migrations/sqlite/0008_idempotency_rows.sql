-- mainstay: expand
-- +goose Up
-- Keys are drawn by clients at random. As rows with an index on the key, only the index is written all over, and not
-- the answers as well.
create table idempotency_rows (
    principal   text    not null,
    route       text    not null,
    key         text    not null,
    fingerprint blob    not null constraint idempotency_fingerprint_length check (length(fingerprint) = 32),
    status      integer not null,
    header      text    not null, -- JSON object
    body        blob    not null,
    created_at  integer not null,
    expires_at  integer not null,
    constraint idempotency_key unique (principal, route, key)
) strict;
insert into idempotency_rows (principal, route, key, fingerprint, status, header, body, created_at, expires_at)
select principal, route, key, fingerprint, status, header, body, created_at, expires_at from idempotency order by created_at;
drop table idempotency;
alter table idempotency_rows rename to idempotency;
-- clean.idempotency: what may be forgotten.
create index idempotency_expires on idempotency (expires_at);

-- +goose Down
create table idempotency_keys (
    principal   text    not null,
    route       text    not null,
    key         text    not null,
    fingerprint blob    not null constraint idempotency_fingerprint_length check (length(fingerprint) = 32),
    status      integer not null,
    header      text    not null, -- JSON object
    body        blob    not null,
    created_at  integer not null,
    expires_at  integer not null,
    constraint idempotency_pk primary key (principal, route, key)
) strict, without rowid;
insert into idempotency_keys select principal, route, key, fingerprint, status, header, body, created_at, expires_at from idempotency;
drop table idempotency;
alter table idempotency_keys rename to idempotency;
create index idempotency_expires on idempotency (expires_at);
