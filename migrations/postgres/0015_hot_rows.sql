-- mainstay: contract needs 11
-- +goose Up
-- Rows that are updated all the time, to be found by what changes in them. While some transaction is open, versions that
-- it could still see stay, and a key that is always the same leads to all of them. This takes nothing away, and no
-- program needs it: it comes as a contraction so that an upgrade across the one before need not wait for it.
create unique index sequencer_state_version on sequencer_state (version);
create unique index log_head_last on log_head (topic, lane, last_sequence);
create unique index relay_progress_last on relay_progress (topic, lane, sequence);
create unique index place_last on place (consumer, topic, lane, sequence);
update compatibility set oldest = 11;

-- +goose Down
update compatibility set oldest = 11;
drop index place_last;
drop index relay_progress_last;
drop index log_head_last;
drop index sequencer_state_version;
