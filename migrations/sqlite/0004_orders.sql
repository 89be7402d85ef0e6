-- mainstay: expand
-- +goose Up
create table orders (
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

-- Personal data, once, in one place that can be erased.
create table order_private (
    order_id    text primary key,
    token       text not null,
    name        text not null,
    line1       text not null,
    city        text not null,
    postal_code text not null
) strict, without rowid;

-- +goose Down
drop table order_private;
drop table orders;
