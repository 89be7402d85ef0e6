-- mainstay: expand
-- +goose Up
-- What is known of processes that died while they held a lane. The row with sequence 0 and an empty topic is the
-- lane's own: how many holders in a row have died in it. Another row is a message that was run alone since: how many
-- processes ended under it, and whether it is being run. Rows go when what was in flight has been passed.
create table crash (
    consumer text    not null,
    lane     int     not null constraint crash_lane_not_negative check (lane >= 0),
    topic    text    not null,
    sequence bigint  not null constraint crash_sequence_not_negative check (sequence >= 0),
    count    int     not null constraint crash_count_not_negative check (count >= 0),
    running  boolean not null,
    constraint crash_pk primary key (consumer, lane, topic, sequence)
);

-- +goose Down
drop table crash;
