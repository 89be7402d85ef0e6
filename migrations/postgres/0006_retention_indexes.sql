-- mainstay: expand
-- +goose NO TRANSACTION
-- +goose Up
drop index concurrently if exists saga_ended;
-- clean.sagas: what ended longest ago.
create index concurrently saga_ended on saga (ended_at) where ended_at is not null;
drop index concurrently if exists dead_letter_ended;
-- clean.dead_letters: cases that ended longest ago.
create index concurrently dead_letter_ended on dead_letter (ended_at) where ended_at is not null;

-- +goose Down
drop index dead_letter_ended;
drop index saga_ended;
