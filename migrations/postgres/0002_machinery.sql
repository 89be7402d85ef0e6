-- mainstay: expand
-- +goose Up
-- Consumers whose places hold back the outbox's retention; topics is a JSON array.
create table consumer (
    name          text        not null constraint consumer_name_not_empty check (name <> ''),
    topics        jsonb       not null constraint consumer_topics_array check (jsonb_typeof(topics) = 'array'),
    start         text        not null constraint consumer_start_known check (start in ('earliest', 'latest')),
    registered_at timestamptz not null,
    constraint consumer_pk primary key (name)
);

-- The last sequence that a consumer has handled of each log; it moves in the effect's own transaction.
create table place (
    consumer    text   not null constraint place_consumer_registered references consumer (name) on delete cascade,
    topic       text   not null,
    lane        int    not null constraint place_lane_not_negative check (lane >= 0),
    incarnation bigint not null constraint place_incarnation_not_negative check (incarnation >= 0),
    sequence    bigint not null constraint place_sequence_not_negative check (sequence >= 0),
    message_id  text   not null,
    constraint place_pk primary key (consumer, topic, lane)
) with (fillfactor = 50);

-- Messages taken out of their lane into their key's own queue. The head of a queue is the row with the lowest
-- sequence; the others wait behind it.
--   retry: failed, to be tried again when due      call: a remote call to make (again) when due
--   queued: waits behind its key's head            dead: only a person moves it
--   replay: a person has moved it, to be tried now
create table parked (
    consumer   text        not null,
    topic      text        not null,
    lane       int         not null,
    sequence   bigint      not null,
    key        text        not null,
    state      text        not null constraint parked_state_known check (state in ('retry', 'call', 'queued', 'dead', 'replay')),
    step_key   text        not null,
    op         text        not null,
    attempts   int         not null constraint parked_attempts_not_negative check (attempts >= 0),
    due_at     timestamptz not null,
    message_id text        not null,
    message    bytea       not null, -- the whole envelope, JSON, as it was
    error      text        not null,
    parked_at  timestamptz not null,
    constraint parked_pk primary key (consumer, topic, lane, sequence)
) with (fillfactor = 70);

-- A dead letter's case: it stays after the message was replayed, discarded or superseded.
create table dead_letter (
    consumer    text        not null,
    topic       text        not null,
    lane        int         not null,
    sequence    bigint      not null,
    key         text        not null,
    message_id  text        not null,
    type        text        not null,
    message     bytea       not null,
    kind        text        not null,
    error       text        not null,
    fingerprint text        not null,
    attempts    int         not null,
    entered_at  timestamptz not null,
    state       text        not null constraint dead_letter_state_known
                check (state in ('open', 'replaying', 'resolved', 'superseded', 'discarded')),
    ended_at    timestamptz,
    constraint dead_letter_pk primary key (consumer, topic, lane, sequence),
    constraint dead_letter_ended check ((state in ('open', 'replaying')) = (ended_at is null))
);
-- deadletter.open: the cases that wait for a person.
create index dead_letter_open on dead_letter (entered_at) where state in ('open', 'replaying');

-- What a participant knows of a saga's step: the outcome of each direction, for ever the same.
create table barrier (
    participant text        not null,
    step_key    text        not null,
    op          text        not null constraint barrier_op_known check (op in ('do', 'undo')),
    outcome     text        not null constraint barrier_outcome_known check (outcome in ('done', 'rejected', 'void')),
    code        text        not null,
    detail      text        not null,
    message_id  text        not null,
    created_at  timestamptz not null,
    -- barrier.read: the step key first, so that no plan can take the participant alone.
    constraint barrier_pk primary key (step_key, participant, op)
);

create table saga (
    id                 text        not null,
    definition         text        not null,
    definition_version int         not null,
    correlation_id     text        not null,
    key                text        not null,
    lane               int         not null,
    status             text        not null constraint saga_status_known
                       check (status in ('running', 'compensating', 'completed', 'compensated', 'needs_operator')),
    version            bigint      not null constraint saga_version_positive check (version > 0),
    data               bytea       not null,
    state              text        not null,
    due_at             timestamptz,
    created_at         timestamptz not null,
    updated_at         timestamptz not null,
    ended_at           timestamptz,
    constraint saga_pk primary key (id),
    constraint saga_ended check ((status in ('completed', 'compensated')) = (ended_at is not null))
) with (fillfactor = 70);
-- saga.due: timers of a lane.
create index saga_due on saga (definition, lane, due_at) where due_at is not null;
-- saga.open: what has not ended, oldest first.
create index saga_open on saga (created_at) where ended_at is null;

-- One row for each transition: what came in, what it did, and the ids of the messages that it sent.
create table saga_history (
    saga_id    text        not null,
    version    bigint      not null,
    at         timestamptz not null,
    message_id text        not null,
    entry      text        not null,
    sent       jsonb       not null constraint saga_history_sent_array check (jsonb_typeof(sent) = 'array'),
    constraint saga_history_pk primary key (saga_id, version)
);

-- One record for each idempotency key: the answer, for byte-equal repetition.
create table idempotency (
    principal   text        not null,
    route       text        not null,
    key         text        not null,
    fingerprint bytea       not null constraint idempotency_fingerprint_length check (length(fingerprint) = 32),
    status      int         not null,
    header      jsonb       not null,
    body        bytea       not null,
    created_at  timestamptz not null,
    expires_at  timestamptz not null,
    constraint idempotency_pk primary key (principal, route, key)
);
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
