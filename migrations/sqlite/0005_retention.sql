-- mainstay: expand
-- +goose Up
-- The first sequence of a log that is kept: what is below it was removed. A log without a row is whole.
create table log_floor (
    topic          text    not null,
    lane           integer not null,
    first_sequence integer not null constraint log_floor_beyond_first check (first_sequence > 1),
    constraint log_floor_pk primary key (topic, lane)
) strict, without rowid;

-- How far a table was cleaned, so that nobody takes what was removed for lost: only what is older than before is gone.
create table cleaned (
    name    text    primary key,
    before  integer not null,
    removed integer not null constraint cleaned_removed_not_negative check (removed >= 0)
) strict, without rowid;

-- clean.sagas: what ended longest ago.
create index saga_ended on saga (ended_at) where ended_at is not null;
-- clean.dead_letters: cases that ended longest ago.
create index dead_letter_ended on dead_letter (ended_at) where ended_at is not null;

-- +goose Down
drop index dead_letter_ended;
drop index saga_ended;
drop table cleaned;
drop table log_floor;
