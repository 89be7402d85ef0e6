create schema if not exists sandbox;

create table if not exists sandbox.authorisation (
    id        bigint generated always as identity, -- the order of their making
    key       text   not null,
    order_ref text   not null,
    amount    bigint not null constraint authorisation_amount_not_negative check (amount >= 0),
    currency  text   not null,
    status    text   not null constraint authorisation_status_known
              check (status in ('authorised', 'captured', 'voided', 'declined', 'cancelled')),
    captured  bigint not null constraint authorisation_captured_all
              check (captured = case status when 'captured' then amount else 0 end),
    voided    bigint not null constraint authorisation_voided_all
              check (voided = case status when 'voided' then amount else 0 end),
    token     text   not null,
    hash      bytea  not null,
    code      text   not null,
    detail    text   not null,
    constraint authorisation_pk primary key (key)
);
-- sandbox.load: what a capture may take.
create index if not exists authorisation_order_ref on sandbox.authorisation (order_ref);

create table if not exists sandbox.capture (
    key       text  not null,
    order_ref text  not null,
    hash      bytea not null,
    code      text  not null,
    detail    text  not null,
    constraint capture_pk primary key (key)
);

create table if not exists sandbox.attempt (
    key      text not null,
    attempts int  not null constraint attempt_positive check (attempts > 0),
    constraint attempt_pk primary key (key)
);
