-- mainstay: expand
-- +goose Up
-- Which programs this schema is for: those that know at least this migration. A contraction moves it on.
create table compatibility (
    one    boolean not null default true constraint compatibility_one_row check (one),
    oldest bigint  not null constraint compatibility_oldest_not_negative check (oldest >= 0),
    constraint compatibility_pk primary key (one)
);
insert into compatibility (oldest) values (0);

-- How far a backfill has come that is not done yet.
create table backfill (
    version bigint not null,
    after   text   not null, -- as the backfill's function has it
    filled  bigint not null constraint backfill_filled_not_negative check (filled >= 0),
    constraint backfill_pk primary key (version)
);

-- The advisory lock of programs whose latest migration is this one. Their sessions share it; who contracts the schema
-- takes those of all programs that are too old, and so knows that none is at work, and that none can begin.
create function program_lock(latest bigint) returns bigint language sql stable as $$
    select hashtextextended(current_schema() || '/program/' || latest, 0)
$$;

-- +goose Down
drop function program_lock;
drop table backfill;
drop table compatibility;
