-- mainstay: expand
-- +goose Up
-- The first sequence of a log that is kept: what is below it was removed. A log without a row is whole.
create table log_floor (
    topic          text   not null,
    lane           int    not null constraint log_floor_lane_not_negative check (lane >= 0),
    first_sequence bigint not null constraint log_floor_beyond_first check (first_sequence > 1),
    constraint log_floor_pk primary key (topic, lane)
);

-- How far a table was cleaned, so that nobody takes what was removed for lost: only what is older than before is gone.
create table cleaned (
    name    text        not null,
    before  timestamptz not null,
    removed bigint      not null constraint cleaned_removed_not_negative check (removed >= 0),
    constraint cleaned_pk primary key (name)
);

-- A past day of the outbox that nobody writes to any more: all its messages have sequences, and none has one above
-- those in heads, which were the ends of the logs at that time: an array of {topic, lane, last_sequence}.
create table outbox_sealed (
    ends_at   timestamptz not null,
    sealed_at timestamptz not null default clock_timestamp(),
    heads     jsonb       not null constraint outbox_sealed_heads_array check (jsonb_typeof(heads) = 'array'),
    constraint outbox_sealed_pk primary key (ends_at)
);

-- As before, but a new partition is attached, so that those who write to the outbox meanwhile are not waited for.
-- +goose StatementBegin
create or replace function create_outbox_partitions(ahead int) returns int language plpgsql as $$
declare
    today date := (clock_timestamp() at time zone 'UTC')::date;
    made  int  := 0;
    d     date;
    name  text;
begin
    for d in select today + n from generate_series(-1, ahead) as n loop
        name := format('%I.%I', current_schema(), 'outbox_' || to_char(d, 'YYYYMMDD'));
        continue when to_regclass(name) is not null;
        perform pg_advisory_xact_lock(hashtextextended(current_schema() || '/create_outbox_partitions', 0));
        continue when to_regclass(name) is not null;
        execute format('create table %s (like outbox including all)', name);
        execute format('alter table outbox attach partition %s for values from (%L) to (%L)',
            name, d::timestamp at time zone 'UTC', (d + 1)::timestamp at time zone 'UTC');
        made := made + 1;
    end loop;
    return made;
end $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
create or replace function create_outbox_partitions(ahead int) returns int language plpgsql as $$
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
drop table outbox_sealed;
drop table cleaned;
drop table log_floor;
