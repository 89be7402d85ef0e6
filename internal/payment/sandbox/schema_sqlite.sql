create table if not exists authorisation (
    id        integer primary key, -- the order of their making
    key       text    not null,
    order_ref text    not null,
    amount    integer not null constraint authorisation_amount_not_negative check (amount >= 0),
    currency  text    not null,
    status    text    not null constraint authorisation_status_known
              check (status in ('authorised', 'captured', 'voided', 'declined', 'cancelled')),
    captured  integer not null constraint authorisation_captured_all check (captured = iif(status = 'captured', amount, 0)),
    voided    integer not null constraint authorisation_voided_all check (voided = iif(status = 'voided', amount, 0)),
    token     text    not null,
    hash      blob    not null,
    code      text    not null,
    detail    text    not null,
    constraint authorisation_key unique (key)
) strict;
-- sandbox.load: what a capture may take.
create index if not exists authorisation_order_ref on authorisation (order_ref);

create table if not exists capture (
    key       text primary key,
    order_ref text not null,
    hash      blob not null,
    code      text not null,
    detail    text not null
) strict, without rowid;

create table if not exists attempt (
    key      text    primary key,
    attempts integer not null constraint attempt_positive check (attempts > 0)
) strict, without rowid;
