-- mainstay: expand
-- +goose Up
-- Amounts of money are in minor units.

-- Units of a SKU: on_hand can still be reserved. Orders move units between the three and never change their sum.
create table stock (
    sku      text   not null constraint stock_sku_not_empty check (sku <> ''),
    on_hand  bigint not null constraint stock_on_hand_not_negative check (on_hand >= 0),
    reserved bigint not null constraint stock_reserved_not_negative check (reserved >= 0),
    shipped  bigint not null constraint stock_shipped_not_negative check (shipped >= 0),
    constraint stock_pk primary key (sku)
) with (fillfactor = 50); -- few rows, often updated: room for the new version on the same page

-- Append-only: why stock is what it is.
create table stock_movement (
    id         bigint generated always as identity,
    order_id   text,
    sku        text        not null,
    kind       text        not null constraint stock_movement_kind_known
               check (kind in ('receive', 'adjust', 'reserve', 'release', 'ship')),
    quantity   bigint      not null,
    created_at timestamptz not null,
    constraint stock_movement_pk primary key (id),
    constraint stock_movement_order check ((order_id is null) = (kind in ('receive', 'adjust'))),
    constraint stock_movement_quantity check (quantity > 0 or (kind = 'adjust' and quantity < 0))
);
-- inventory.reservations. An order reserves a SKU once, and ends that once: it releases or ships.
create unique index stock_movement_once on stock_movement (order_id, sku, (kind = 'reserve'))
    where order_id is not null;

-- Money by order. A declined payment never held anything.
create table payment (
    order_id   text        not null,
    amount     bigint      not null constraint payment_amount_positive check (amount > 0),
    currency   text        not null constraint payment_currency_shape check (length(currency) = 3),
    status     text        not null constraint payment_status_known
               check (status in ('authorised', 'captured', 'voided', 'declined')),
    updated_at timestamptz not null,
    constraint payment_pk primary key (order_id)
) with (fillfactor = 80); -- each row is updated once

-- Append-only, double entry: a debit is positive, a credit negative; the two of a kind sum to zero.
create table payment_entry (
    order_id   text        not null,
    kind       text        not null constraint payment_entry_kind_known check (kind in ('authorise', 'capture', 'void')),
    account    text        not null constraint payment_entry_account_known
               check (account in ('customer', 'customer_hold', 'merchant')),
    amount     bigint      not null constraint payment_entry_amount_not_zero check (amount <> 0),
    currency   text        not null constraint payment_entry_currency_shape check (length(currency) = 3),
    created_at timestamptz not null
);
-- An order is authorised once, and that ends once: a capture and a void both credit the hold.
create unique index payment_entry_once on payment_entry (order_id, account, (kind = 'authorise'));

-- Bookings of a country: booked are open, at most capacity of them at once; no limit when it is null.
create table carrier (
    country    text   not null constraint carrier_country_shape check (country ~ '^[A-Z]{2}$'),
    capacity   bigint constraint carrier_capacity_not_negative check (capacity >= 0),
    booked     bigint not null constraint carrier_booked_not_negative check (booked >= 0),
    dispatched bigint not null constraint carrier_dispatched_not_negative check (dispatched >= 0),
    constraint carrier_pk primary key (country)
) with (fillfactor = 50); -- few rows, often updated: room for the new version on the same page

create table booking (
    order_id   text        not null,
    country    text        not null,
    status     text        not null constraint booking_status_known check (status in ('booked', 'cancelled', 'dispatched')),
    tracking   text        not null,
    updated_at timestamptz not null,
    constraint booking_pk primary key (order_id),
    constraint booking_tracking unique (tracking)
) with (fillfactor = 80); -- each row is updated once

-- +goose Down
drop table booking;
drop table carrier;
drop table payment_entry;
drop table payment;
drop table stock_movement;
drop table stock;
