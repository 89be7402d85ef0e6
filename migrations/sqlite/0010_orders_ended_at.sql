-- mainstay: expand
-- +goose Up
-- When an order ended, apart from when its row was last changed: personal data is kept for a time after the end.
create table orders_ended (
    id            text    primary key,
    principal     text    not null,
    customer_id   text    not null,
    status        text    not null constraint orders_status_known
                  check (status in ('pending', 'confirmed', 'cancelled', 'needs_operator')),
    reason_code   text    not null,
    reason_detail text    not null,
    currency      text    not null constraint orders_currency_shape check (length(currency) = 3),
    total         integer not null constraint orders_total_positive check (total > 0),
    country       text    not null constraint orders_country_shape check (length(country) = 2),
    lines         text    not null, -- JSON array
    created_at    integer not null,
    updated_at    integer not null,
    ended_at      integer,
    constraint orders_reason check (status <> 'cancelled' or reason_code <> ''),
    constraint orders_ended check ((status in ('confirmed', 'cancelled')) = (ended_at is not null))
) strict, without rowid;
insert into orders_ended
select id, principal, customer_id, status, reason_code, reason_detail, currency, total, country, lines, created_at, updated_at,
       case when status in ('confirmed', 'cancelled') then updated_at end
from orders order by id;
drop table orders;
alter table orders_ended rename to orders;

-- +goose Down
create table orders_before (
    id            text    primary key,
    principal     text    not null,
    customer_id   text    not null,
    status        text    not null constraint orders_status_known
                  check (status in ('pending', 'confirmed', 'cancelled', 'needs_operator')),
    reason_code   text    not null,
    reason_detail text    not null,
    currency      text    not null constraint orders_currency_shape check (length(currency) = 3),
    total         integer not null constraint orders_total_positive check (total > 0),
    country       text    not null constraint orders_country_shape check (length(country) = 2),
    lines         text    not null, -- JSON array
    created_at    integer not null,
    updated_at    integer not null,
    constraint orders_reason check (status <> 'cancelled' or reason_code <> '')
) strict, without rowid;
insert into orders_before
select id, principal, customer_id, status, reason_code, reason_detail, currency, total, country, lines, created_at, updated_at from orders;
drop table orders;
alter table orders_before rename to orders;
