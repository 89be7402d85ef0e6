-- mainstay: expand
-- +goose Up
-- When an order ended, apart from when its row was last changed: personal data is kept for a time after the end.
alter table orders add column ended_at timestamptz,
    add constraint orders_ended check ((status in ('confirmed', 'cancelled')) = (ended_at is not null)) not valid;

-- Programs that do not know the column leave it as it is.
-- +goose StatementBegin
create function note_order_end() returns trigger language plpgsql as $$
begin
    new.ended_at := case when new.status in ('confirmed', 'cancelled') then new.updated_at end;
    return new;
end $$;
-- +goose StatementEnd
create trigger order_end before update on orders for each row
    when ((new.status in ('confirmed', 'cancelled')) <> (new.ended_at is not null))
    execute function note_order_end();

-- Fills the next orders after an id that ended before there was the column.
-- +goose StatementBegin
create function fill_orders_ended_at(after text, rows int, out last text, out filled bigint) language sql as $$
    with next as (
        select id from orders where after = '' or id > nullif(after, '')::uuid order by id limit rows
    ), done as (
        update orders o set ended_at = o.updated_at from next n
        where o.id = n.id and o.status in ('confirmed', 'cancelled') and o.ended_at is null
        returning 1
    )
    select (select id::text from next order by id desc limit 1), (select count(*) from done)
$$;
-- +goose StatementEnd

-- +goose Down
drop function fill_orders_ended_at;
drop trigger order_end on orders;
drop function note_order_end;
alter table orders drop constraint orders_ended, drop column ended_at;
