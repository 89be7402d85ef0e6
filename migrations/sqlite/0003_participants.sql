-- mainstay: expand
-- +goose Up
-- Times are microseconds since 1970, UTC; amounts of money are in minor units.

-- Units of a SKU: on_hand can still be reserved. Orders move units between the three and never change their sum.
create table stock (
    sku      text    primary key constraint stock_sku_not_empty check (sku <> ''),
    on_hand  integer not null constraint stock_on_hand_not_negative check (on_hand >= 0),
    reserved integer not null constraint stock_reserved_not_negative check (reserved >= 0),
    shipped  integer not null constraint stock_shipped_not_negative check (shipped >= 0)
) strict, without rowid;

-- Append-only: why stock is what it is.
create table stock_movement (
    id         integer primary key,
    order_id   text,
    sku        text    not null,
    kind       text    not null constraint stock_movement_kind_known
               check (kind in ('receive', 'adjust', 'reserve', 'release', 'ship')),
    quantity   integer not null,
    created_at integer not null,
    constraint stock_movement_order check ((order_id is null) = (kind in ('receive', 'adjust'))),
    constraint stock_movement_quantity check (quantity > 0 or (kind = 'adjust' and quantity < 0))
) strict;
-- inventory.reservations. An order reserves a SKU once, and ends that once: it releases or ships.
create unique index stock_movement_once on stock_movement (order_id, sku, (kind = 'reserve'))
    where order_id is not null;

-- Money by order. A declined payment never held anything.
create table payment (
    order_id   text    primary key,
    amount     integer not null constraint payment_amount_positive check (amount > 0),
    currency   text    not null constraint payment_currency_shape check (length(currency) = 3),
    status     text    not null constraint payment_status_known
               check (status in ('authorised', 'captured', 'voided', 'declined')),
    updated_at integer not null
) strict, without rowid;

-- Append-only, double entry: a debit is positive, a credit negative; the two of a kind sum to zero.
create table payment_entry (
    order_id   text    not null,
    kind       text    not null constraint payment_entry_kind_known check (kind in ('authorise', 'capture', 'void')),
    account    text    not null constraint payment_entry_account_known
               check (account in ('customer', 'customer_hold', 'merchant')),
    amount     integer not null constraint payment_entry_amount_not_zero check (amount <> 0),
    currency   text    not null constraint payment_entry_currency_shape check (length(currency) = 3),
    created_at integer not null
) strict;
-- An order is authorised once, and that ends once: a capture and a void both credit the hold.
create unique index payment_entry_once on payment_entry (order_id, account, (kind = 'authorise'));

-- Bookings of a country: booked are open, at most capacity of them at once; no limit when it is null.
create table carrier (
    country    text    primary key constraint carrier_country_shape check (country glob '[A-Z][A-Z]'),
    capacity   integer constraint carrier_capacity_not_negative check (capacity >= 0),
    booked     integer not null constraint carrier_booked_not_negative check (booked >= 0),
    dispatched integer not null constraint carrier_dispatched_not_negative check (dispatched >= 0)
) strict, without rowid;

create table booking (
    order_id   text    primary key,
    country    text    not null,
    status     text    not null constraint booking_status_known check (status in ('booked', 'cancelled', 'dispatched')),
    tracking   text    not null,
    updated_at integer not null,
    constraint booking_tracking unique (tracking)
) strict, without rowid;

-- +goose Down
drop table booking;
drop table carrier;
drop table payment_entry;
drop table payment;
drop table stock_movement;
drop table stock;
