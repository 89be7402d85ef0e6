-- mainstay: expand
-- +goose Up
-- Logs that are published to the broker once more: the relay's second cursor, which takes turns with new messages and
-- ends where it meets the last of them. A row survives the relay that worked on it.
create table refill (
    topic    text    not null,
    lane     integer not null,
    sequence integer not null constraint refill_sequence_not_negative check (sequence >= 0), -- the last one done
    reason   text    not null,
    asked_at integer not null,
    constraint refill_pk primary key (topic, lane)
) strict, without rowid;

-- +goose Down
drop table refill;
