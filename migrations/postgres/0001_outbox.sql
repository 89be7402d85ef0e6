-- mainstay: expand
-- +goose Up
-- What the database is: one row, written by the runner right after the first migration (see found_database). The
-- number of lanes never changes. The identity names the cluster, its timeline and the database: where it differs,
-- this is a copy of what it was.
create table meta (
    one        boolean     not null default true constraint meta_one_row check (one),
    lanes      int         not null constraint meta_lanes_range check (lanes between 1 and 1024),
    identity   text        not null constraint meta_identity_shape check (identity ~ '^[0-9]+/[0-9]+/[0-9]+$'),
    created_at timestamptz not null default clock_timestamp(),
    constraint meta_pk primary key (one)
);

-- The order of the outbox. Without a cache: a cached block would let a later insert draw a lower number.
create sequence outbox_position as bigint cache 1;

-- The outbox: insert-only, a superset of what Debezium's outbox event router reads. The payload is bytes, which
-- come out as they went in; headers holds the rest of the envelope. A position is drawn when the row is inserted,
-- so writers of one key hold a lock that they share before they insert.
create table outbox (
    id            uuid        not null,
    position      bigint      not null default nextval('outbox_position'),
    created_at    timestamptz not null default clock_timestamp(),
    xid           xid8        not null default pg_current_xact_id(),
    lane          int         not null,
    topic         text        not null constraint outbox_topic_shape check (topic ~ '^[a-z0-9-]{1,64}$'),
    key           text        not null constraint outbox_key_length check (octet_length(key) between 1 and 255),
    type          text        not null constraint outbox_type_length check (octet_length(type) between 1 and 128),
    aggregatetype text        not null default '',
    aggregateid   text        not null default '',
    headers       jsonb       not null default '{}',
    payload       bytea       not null,
    -- log.read: messages by their positions, in the partitions that the log row names.
    constraint outbox_pk primary key (position, created_at)
) partition by range (created_at);

-- sequencer.round: what became visible since a snapshot, without a visit to the table.
create index outbox_xid on outbox (xid) include (position, created_at, topic, lane);

-- +goose StatementBegin
create function refuse_outbox_change() returns trigger language plpgsql as $$
begin
    if current_setting('mainstay.rebase', true) = 'on' then
        return null;
    end if;
    raise exception 'the outbox is insert-only' using errcode = 'restrict_violation',
        hint = 'Old rows leave with their partition.';
end $$;
-- +goose StatementEnd
create trigger outbox_insert_only before update or delete on outbox
    for each statement execute function refuse_outbox_change();

-- Makes the outbox's daily partitions (days are UTC's) from yesterday to so many days ahead, and answers how many
-- were missing. There is no default partition: it would have to be scanned for every new one.
-- +goose StatementBegin
create function create_outbox_partitions(ahead int) returns int language plpgsql as $$
declare
    today date := (clock_timestamp() at time zone 'UTC')::date;
    made  int  := 0;
    d     date;
    name  text;
begin
    for d in select today + n from generate_series(-1, ahead) as n loop
        name := format('%I.%I', current_schema(), 'outbox_' || to_char(d, 'YYYYMMDD'));
        continue when to_regclass(name) is not null;
        execute format('create table if not exists %s partition of outbox for values from (%L) to (%L)',
            name, d::timestamp at time zone 'UTC', (d + 1)::timestamp at time zone 'UTC');
        made := made + 1;
    end loop;
    return made;
end $$;
-- +goose StatementEnd

-- The log: the outbox in order. A row is what one round has numbered of a lane: positions[1] has first_sequence, the
-- next one the sequence after it, and so on. A sequence names one message for ever.
create table log (
    topic          text        not null,
    lane           int         not null,
    first_sequence bigint      not null constraint log_first_sequence_positive check (first_sequence > 0),
    last_sequence  bigint      not null,
    incarnation    bigint      not null constraint log_incarnation_positive check (incarnation > 0),
    -- When the oldest and the newest of its messages were written: which partitions they are in.
    oldest         timestamptz not null,
    newest         timestamptz not null,
    positions      bigint[]    not null,
    constraint log_pk primary key (topic, lane, first_sequence),
    constraint log_dense check (cardinality(positions) = last_sequence - first_sequence + 1 and cardinality(positions) > 0),
    constraint log_ages check (oldest <= newest)
);
-- log.read: the row that holds a sequence, and those after it.
create unique index log_last on log (topic, lane, last_sequence);

-- The last sequence of every log.
create table log_head (
    topic         text   not null,
    lane          int    not null constraint log_head_lane_not_negative check (lane >= 0),
    last_sequence bigint not null constraint log_head_positive check (last_sequence > 0),
    constraint log_head_pk primary key (topic, lane)
) with (fillfactor = 50);

-- Restores and promotions: from first_sequence on, the log is what this database says, whatever was published by
-- the one that it was. A log that is younger than the incarnation has no row: it belongs to it from 1 on.
create table incarnation (
    id             bigint      not null constraint incarnation_not_first check (id > 1),
    topic          text        not null,
    lane           int         not null,
    first_sequence bigint      not null constraint incarnation_first_sequence_positive check (first_sequence > 0),
    opened_at      timestamptz not null default clock_timestamp(),
    reason         text        not null,
    constraint incarnation_pk primary key (topic, lane, id)
);

-- What the sequencer has seen: everything that is visible in snapshot is numbered. While a large difference is
-- taken in chunks, upper is the snapshot that it ends at, and positions up to after_position are numbered of it.
-- version is the compare-and-set of every round, epoch that of the lease it ran under.
create table sequencer_state (
    one            boolean     not null default true constraint sequencer_state_one_row check (one),
    snapshot       pg_snapshot not null,
    upper          pg_snapshot,
    after_position bigint,
    incarnation    bigint      not null default 1 constraint sequencer_state_incarnation_positive check (incarnation > 0),
    version        bigint      not null default 1,
    epoch          bigint      not null default 0,
    moved_at       timestamptz not null default clock_timestamp(),
    constraint sequencer_state_pk primary key (one),
    constraint sequencer_state_chunk check ((upper is null) = (after_position is null))
) with (fillfactor = 20);

-- Nothing is visible in the snapshot 3:3:, so the first round sees all there is.
insert into sequencer_state (snapshot) values ('3:3:');

-- Who works on which lane. A free lease has neither holder nor end. A transaction under a lease holds a shared
-- advisory lock of it, by which a successor finds the session that is still at work, and may have to terminate.
create table lease (
    name        text        not null,
    lane        int         not null constraint lease_lane_not_negative check (lane >= 0),
    holder      text,
    epoch       bigint      not null constraint lease_epoch_positive check (epoch > 0),
    expires_at  timestamptz,
    constraint lease_pk primary key (name, lane),
    constraint lease_free check ((holder is null) = (expires_at is null))
) with (fillfactor = 50);

-- How far the relay has published each log, and where the broker keeps that record.
create table relay_progress (
    topic           text   not null,
    lane            int    not null,
    incarnation     bigint not null constraint relay_progress_incarnation_positive check (incarnation > 0),
    sequence        bigint not null constraint relay_progress_sequence_not_negative check (sequence >= 0),
    message_id      text   not null,
    broker_position bigint not null constraint relay_progress_position_not_negative check (broker_position >= 0),
    epoch           bigint not null constraint relay_progress_epoch_positive check (epoch > 0),
    constraint relay_progress_pk primary key (topic, lane)
) with (fillfactor = 50);

-- Fails the transaction where a compare-and-set has found something else: with a code of its own where somebody has
-- taken over, with that of a serialization failure where the work is to be repeated.
-- +goose StatementBegin
create function fence(ok boolean, what text, code text default 'MF001') returns void language plpgsql as $$
begin
    if ok is not true then
        raise exception '%', what using errcode = code;
    end if;
end $$;
-- +goose StatementEnd

-- The identity of the database that a session is in: a restored dump, a promoted standby and a restored backup each
-- have another one than what they were made from.
-- +goose StatementBegin
create function database_identity() returns text language sql stable as $$
    -- The timeline is that of the write-ahead log: the control file learns of a promotion at its next checkpoint.
    select s.system_identifier || '/' || ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int || '/' || d.oid
    from pg_control_system() s, pg_database d
    where d.datname = current_database()
$$;
-- +goose StatementEnd

-- Founds the database: called by the runner after each migration, it acts the first time only.
-- +goose StatementBegin
create function found_database(wanted_lanes int) returns void language plpgsql as $$
begin
    lock table meta in share row exclusive mode;
    if exists (select from meta) then
        return;
    end if;
    execute format('alter table outbox add constraint outbox_lane_known check (lane between 0 and %s)', wanted_lanes - 1);
    insert into meta (lanes, identity) values (wanted_lanes, database_identity());
end $$;
-- +goose StatementEnd

select create_outbox_partitions(7);

-- +goose Down
drop function found_database(int);
drop function database_identity();
drop function fence(boolean, text, text);
drop table relay_progress;
drop table lease;
drop table sequencer_state;
drop table incarnation;
drop table log_head;
drop table log;
drop function create_outbox_partitions(int);
drop table outbox;
drop function refuse_outbox_change();
drop sequence outbox_position;
drop table meta;
