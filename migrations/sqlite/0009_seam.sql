-- mainstay: expand
-- +goose Up
-- Restores: from first_sequence on, the log is what this file says, whatever was published by the one that it was.
create table incarnation (
    id             integer not null constraint incarnation_not_first check (id > 1),
    topic          text    not null,
    lane           integer not null,
    first_sequence integer not null constraint incarnation_first_sequence_positive check (first_sequence > 0),
    opened_at      integer not null,
    reason         text    not null,
    constraint incarnation_pk primary key (topic, lane, id)
) strict, without rowid;

-- Places in logs of another database: what is known of them is what the broker brings.
alter table place add column elsewhere integer not null default 0;

-- +goose Down
alter table place drop column elsewhere;
drop table incarnation;
