-- mainstay: expand
-- +goose Up
create table consumer (
    name          text    primary key,
    topics        text    not null, -- JSON array
    start         text    not null constraint consumer_start_known check (start in ('earliest', 'latest')),
    registered_at integer not null
) strict, without rowid;

-- The last sequence that a consumer has handled of each log; it moves in the effect's own transaction.
create table place (
    consumer    text    not null,
    topic       text    not null,
    lane        integer not null,
    incarnation integer not null,
    sequence    integer not null constraint place_sequence_not_negative check (sequence >= 0),
    message_id  text    not null,
    constraint place_pk primary key (consumer, topic, lane)
) strict, without rowid;

-- Messages taken out of their lane into their key's own queue. The head of a queue is the row with the lowest
-- sequence; the others wait behind it.
--   retry: failed, to be tried again when due      call: a remote call to make (again) when due
--   queued: waits behind its key's head            dead: only a person moves it
--   replay: a person has moved it, to be tried now
create table parked (
    consumer   text    not null,
    topic      text    not null,
    lane       integer not null,
    sequence   integer not null,
    key        text    not null,
    state      text    not null constraint parked_state_known check (state in ('retry', 'call', 'queued', 'dead', 'replay')),
    step_key   text    not null,
    op         text    not null,
    attempts   integer not null constraint parked_attempts_not_negative check (attempts >= 0),
    due_at     integer not null,
    message_id text    not null,
    message    text    not null, -- the whole envelope, JSON
    error      text    not null,
    parked_at  integer not null,
    constraint parked_pk primary key (consumer, topic, lane, sequence)
) strict, without rowid;

-- A dead letter's case: it stays after the message was replayed, discarded or superseded.
create table dead_letter (
    consumer    text    not null,
    topic       text    not null,
    lane        integer not null,
    sequence    integer not null,
    key         text    not null,
    message_id  text    not null,
    type        text    not null,
    message     text    not null,
    kind        text    not null,
    error       text    not null,
    fingerprint text    not null,
    attempts    integer not null,
    entered_at  integer not null,
    state       text    not null constraint dead_letter_state_known
                check (state in ('open', 'replaying', 'resolved', 'superseded', 'discarded')),
    ended_at    integer,
    constraint dead_letter_pk primary key (consumer, topic, lane, sequence),
    constraint dead_letter_ended check ((state in ('open', 'replaying')) = (ended_at is null))
) strict, without rowid;
-- deadletter.open: the cases that wait for a person.
create index dead_letter_open on dead_letter (entered_at) where state in ('open', 'replaying');

-- What a participant knows of a saga's step: the outcome of each direction, for ever the same.
create table barrier (
    participant text    not null,
    step_key    text    not null,
    op          text    not null constraint barrier_op_known check (op in ('do', 'undo')),
    outcome     text    not null constraint barrier_outcome_known check (outcome in ('done', 'rejected', 'void')),
    code        text    not null,
    detail      text    not null,
    message_id  text    not null,
    created_at  integer not null,
    constraint barrier_pk primary key (participant, step_key, op)
) strict, without rowid;

create table saga (
    id                 text    primary key,
    definition         text    not null,
    definition_version integer not null,
    correlation_id     text    not null,
    key                text    not null,
    lane               integer not null,
    status             text    not null constraint saga_status_known
                       check (status in ('running', 'compensating', 'completed', 'compensated', 'needs_operator')),
    version            integer not null constraint saga_version_positive check (version > 0),
    data               blob    not null,
    state              text    not null,
    due_at             integer,
    created_at         integer not null,
    updated_at         integer not null,
    ended_at           integer,
    constraint saga_ended check ((status in ('completed', 'compensated')) = (ended_at is not null))
) strict, without rowid;
-- saga.due: timers of a lane.
create index saga_due on saga (definition, lane, due_at) where due_at is not null;
-- saga.open: what has not ended, oldest first.
create index saga_open on saga (created_at) where ended_at is null;

-- One row for each transition: what came in, what it did, and the ids of the messages that it sent.
create table saga_history (
    saga_id    text    not null,
    version    integer not null,
    at         integer not null,
    message_id text    not null,
    entry      text    not null,
    sent       text    not null, -- JSON array of message ids
    constraint saga_history_pk primary key (saga_id, version)
) strict, without rowid;

-- One record for each idempotency key: the answer, for byte-equal repetition.
create table idempotency (
    principal   text    not null,
    route       text    not null,
    key         text    not null,
    fingerprint blob    not null constraint idempotency_fingerprint_length check (length(fingerprint) = 32),
    status      integer not null,
    header      text    not null, -- JSON object
    body        blob    not null,
    created_at  integer not null,
    expires_at  integer not null,
    constraint idempotency_pk primary key (principal, route, key)
) strict, without rowid;
-- idempotency.clean: what may be forgotten.
create index idempotency_expires on idempotency (expires_at);

-- +goose Down
drop table idempotency;
drop table saga_history;
drop table saga;
drop table barrier;
drop table dead_letter;
drop table parked;
drop table place;
drop table consumer;
