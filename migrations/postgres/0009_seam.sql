-- +goose Up
-- The last era of this database in which log and broker were compared: workers read nothing before that. Eras begin
-- with the server's start, since a database that goes back to an earlier moment was stopped for it.
create table seam (
    one      boolean not null default true constraint seam_one_row check (one),
    compared text    not null,
    constraint seam_pk primary key (one)
);
insert into seam (compared) values ('');

-- Places in logs of another database: what is known of them is what the broker brings.
alter table place add column elsewhere boolean not null default false;

-- +goose StatementBegin
create function database_era() returns text language sql stable as $$
    select (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint::text
$$;
-- +goose StatementEnd

-- +goose Down
drop function database_era();
alter table place drop column elsewhere;
drop table seam;
