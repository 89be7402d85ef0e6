-- mainstay: expand
-- +goose Up
-- The last era of this database in which log and broker were compared: workers read nothing before that. An era begins
-- with the server's start, since files that go back to an earlier moment were stopped for it, and with a table that was
-- made or filled anew, as a dump does it while the server runs.
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
    select concat_ws('/', (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint,
        'seam'::regclass::oid, pg_relation_filenode('seam'))
$$;
-- +goose StatementEnd

-- +goose Down
drop function database_era();
alter table place drop column elsewhere;
drop table seam;
