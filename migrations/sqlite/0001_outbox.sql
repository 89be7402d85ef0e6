-- mainstay: expand
-- +goose Up
-- What the database is: one row. The number of lanes never changes.
create table meta (
    one        integer primary key check (one = 1),
    lanes      integer not null constraint meta_lanes_range check (lanes between 1 and 1024),
    identity   text    not null,
    created_at integer not null
) strict;

-- The outbox, which on SQLite is the log as well: insert-only, and the sequence is given at append.
-- Times are microseconds since 1970, UTC.
create table outbox (
    position      integer primary key autoincrement,
    id            text    not null,
    topic         text    not null,
    lane          integer not null,
    sequence      integer not null constraint outbox_sequence_positive check (sequence > 0),
    key           text    not null constraint outbox_key_not_empty check (key <> ''),
    type          text    not null,
    aggregatetype text    not null,
    aggregateid   text    not null,
    headers       text    not null,
    payload       blob    not null,
    created_at    integer not null
) strict;
-- log.read: the messages of a lane behind a sequence.
create unique index outbox_log on outbox (topic, lane, sequence);

-- The last sequence of every log.
create table log_head (
    topic         text    not null,
    lane          integer not null,
    last_sequence integer not null constraint log_head_positive check (last_sequence > 0),
    constraint log_head_pk primary key (topic, lane)
) strict, without rowid;

create table lease (
    name       text    not null,
    lane       integer not null,
    holder     text    not null,
    epoch      integer not null constraint lease_epoch_positive check (epoch > 0),
    expires_at integer not null,
    constraint lease_pk primary key (name, lane)
) strict, without rowid;

-- How far the relay has published each log, and where the broker keeps that record.
create table relay_progress (
    topic           text    not null,
    lane            integer not null,
    incarnation     integer not null,
    sequence        integer not null,
    message_id      text    not null,
    broker_position integer not null,
    epoch           integer not null,
    constraint relay_progress_pk primary key (topic, lane)
) strict, without rowid;

-- +goose Down
drop table relay_progress;
drop table lease;
drop table log_head;
drop table outbox;
drop table meta;
