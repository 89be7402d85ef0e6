-- mainstay: contract needs 11
-- +goose Up
-- Programs note the end of an order themselves; one that does not could end none.
drop trigger order_end on orders;
drop function note_order_end;
drop function fill_orders_ended_at;
update compatibility set oldest = 11;

-- +goose Down
update compatibility set oldest = 0;
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
create function fill_orders_ended_at(after text, rows int, out last text, out filled bigint) language sql as $$
    select null::text, 0::bigint
$$;
