-- mainstay: expand
-- +goose Up
create table orders (
    id            uuid        not null,
    principal     text        not null,
    customer_id   text        not null,
    status        text        not null constraint orders_status_known
                  check (status in ('pending', 'confirmed', 'cancelled', 'needs_operator')),
    reason_code   text        not null,
    reason_detail text        not null,
    currency      text        not null constraint orders_currency_shape check (length(currency) = 3),
    total         bigint      not null constraint orders_total_positive check (total > 0),
    country       text        not null constraint orders_country_shape check (length(country) = 2),
    lines         jsonb       not null,
    created_at    timestamptz not null,
    updated_at    timestamptz not null,
    constraint orders_pk primary key (id),
    constraint orders_reason check (status <> 'cancelled' or reason_code <> '')
) with (fillfactor = 80);

-- Personal data, once, in one place that can be erased.
create table order_private (
    order_id    uuid not null,
    token       text not null,
    name        text not null,
    line1       text not null,
    city        text not null,
    postal_code text not null,
    constraint order_private_pk primary key (order_id)
);

-- +goose Down
drop table order_private;
drop table orders;
