-- mainstay: expand
-- +goose NO TRANSACTION
-- +goose Up
-- Rows that are updated all the time, to be found by what changes in them. While some transaction is open, versions that
-- it could still see stay, and a key that is always the same leads to all of them.
drop index concurrently if exists sequencer_state_version;
create unique index concurrently sequencer_state_version on sequencer_state (version);
drop index concurrently if exists log_head_last;
create unique index concurrently log_head_last on log_head (topic, lane, last_sequence);
drop index concurrently if exists relay_progress_last;
create unique index concurrently relay_progress_last on relay_progress (topic, lane, sequence);
drop index concurrently if exists place_last;
create unique index concurrently place_last on place (consumer, topic, lane, sequence);

-- +goose Down
drop index place_last;
drop index relay_progress_last;
drop index log_head_last;
drop index sequencer_state_version;
