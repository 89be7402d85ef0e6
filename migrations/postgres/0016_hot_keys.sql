-- mainstay: contract needs 15
-- +goose Up
-- Without the keys that are always the same: each new version of a row would look through all before it for another one
-- of its key. That there is one row of a log, and one of a place, is the business of those who write them: a round
-- under the sequencer's state row, the relay under its lease, whoever registers a consumer under an advisory lock.
alter table sequencer_state
    drop constraint sequencer_state_pk,
    add constraint sequencer_state_pk primary key using index sequencer_state_version;
alter table log_head
    drop constraint log_head_pk,
    add constraint log_head_pk primary key using index log_head_last;
alter table relay_progress
    drop constraint relay_progress_pk,
    add constraint relay_progress_pk primary key using index relay_progress_last;
alter table place
    drop constraint place_pk,
    add constraint place_pk primary key using index place_last;
update compatibility set oldest = 15;

-- +goose Down
update compatibility set oldest = 11;
alter table place
    drop constraint place_pk,
    add constraint place_pk primary key (consumer, topic, lane);
create unique index place_last on place (consumer, topic, lane, sequence);
alter table relay_progress
    drop constraint relay_progress_pk,
    add constraint relay_progress_pk primary key (topic, lane);
create unique index relay_progress_last on relay_progress (topic, lane, sequence);
alter table log_head
    drop constraint log_head_pk,
    add constraint log_head_pk primary key (topic, lane);
create unique index log_head_last on log_head (topic, lane, last_sequence);
alter table sequencer_state
    drop constraint sequencer_state_pk,
    add constraint sequencer_state_pk primary key (one);
create unique index sequencer_state_version on sequencer_state (version);
