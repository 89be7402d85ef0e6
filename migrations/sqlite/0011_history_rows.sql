-- mainstay: expand
-- +goose Up
-- Transitions of a thousand sagas come one after the other, each of another one. As rows in the order of their writing,
-- with an index on the saga, they fill the last page, and only the index is written all over.
create table saga_history_rows (
    saga_id    text    not null,
    version    integer not null,
    at         integer not null,
    message_id text    not null,
    entry      text    not null,
    sent       text    not null, -- JSON array of message ids
    constraint saga_history_pk primary key (saga_id, version)
) strict;
insert into saga_history_rows (saga_id, version, at, message_id, entry, sent)
select saga_id, version, at, message_id, entry, sent from saga_history order by at, saga_id, version;
drop table saga_history;
alter table saga_history_rows rename to saga_history;

-- +goose Down
create table saga_history_keys (
    saga_id    text    not null,
    version    integer not null,
    at         integer not null,
    message_id text    not null,
    entry      text    not null,
    sent       text    not null, -- JSON array of message ids
    constraint saga_history_pk primary key (saga_id, version)
) strict, without rowid;
insert into saga_history_keys select saga_id, version, at, message_id, entry, sent from saga_history;
drop table saga_history;
alter table saga_history_keys rename to saga_history;
