package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
)

func TestPositional(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]struct {
		query string
		order []int
	}{
		`select a from b where c = $1`:                     {`select a from b where c = ?`, []int{1}},
		`/* it's $9 */ select $2, '$3 ''$4', "$5", $1, $2`: {`/* it's $9 */ select ?, '$3 ''$4', "$5", ?, ?`, []int{2, 1, 2}},
		"select $12 -- or $1\n, $3":                        {"select ? -- or $1\n, ?", []int{12, 3}},
		`select 'open $1`:                                  {`select 'open $1`, nil},
		`select ?, $1`:                                     {`select ?, $1`, nil},
		`select $name`:                                     {`select $name`, nil},
		`select $0`:                                        {`select $0`, nil},
		`select :a, @b`:                                    {`select :a, @b`, nil},
		`commit`:                                           {`commit`, nil},
	} {
		got, order := positional(query)
		if got != want.query || !cmp.Equal(order, want.order) {
			t.Errorf("%s: got %s %v, want %s %v", query, got, order, want.query, want.order)
		}
	}
}

func TestParseInsert_TakesOnlyRowsThatCannotSeeEachOther(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{
		`/* a.b */ insert into a (b, c) values (?, 'x')`:               true,
		`insert into a (b) values (?) on conflict do nothing`:          false,
		`insert into a (b) values ((select max(b) from a))`:            false,
		`insert into a (b) values (?, ?), (?, ?)`:                      false,
		`insert into a (b) values (?) returning b`:                     false,
		`insert into a (b) values (coalesce(?, 1))`:                    false,
		`update a set b = ? where c in (values (?))`:                   false,
		`insert into a (b) select c from d where e in (values (?))`:    false,
		`insert into a (b) values ('x', ?, 'it''s')`:                   false,
		"insert into a (b, c)\nvalues (?,?)":                           true,
		`insert into a (b) values (?)/* as many as values (?, 'a') */`: false,
	} {
		if got := parseInsert(query) != nil; got != want {
			t.Errorf("%s: got %v", query, got)
		}
	}
}

func TestQueue_MergesInsertsAndKeepsTheirOrder(t *testing.T) {
	t.Parallel()
	s := backlogStore(t)
	ctx := t.Context()
	const add, bump = `insert into t (name, twice, kind) values ($2, $1, 'x')`, `update t set twice = twice || $1`
	var want []string
	err := s.Run(ctx, func(ctx context.Context, tx mainstay.Tx) error {
		if _, err := tx.ExecContext(ctx, `create table t (id integer primary key, name text not null, twice text not null, kind text not null)`); err != nil {
			return err
		}
		for i := range 77 {
			if i == 40 {
				tx.Queue(bump, "!")
			}
			tx.Queue(add, fmt.Sprintf("%d%d", i, i), fmt.Sprint(i))
			row := fmt.Sprintf("%d %d%d", i, i, i)
			if i < 40 {
				row += "!"
			}
			want = append(want, row+" x")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = each(ctx, s.reads, func(rows *sql.Rows) error {
		var name, twice, kind string
		err := rows.Scan(&name, &twice, &kind)
		got = append(got, name+" "+twice+" "+kind)
		return err
	}, `select name, twice, kind from t order by id`)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestQueue_ArgumentsMustFitTheQuery(t *testing.T) {
	t.Parallel()
	s := backlogStore(t)
	for name, queue := range map[string]func(tx mainstay.Tx){
		"one too few":  func(tx mainstay.Tx) { tx.Queue(`insert into stock (sku, on_hand) values ($1, $2)`, "a") },
		"one too many": func(tx mainstay.Tx) { tx.Queue(`update stock set on_hand = $1`, 1, 2) },
		"in a later row": func(tx mainstay.Tx) {
			tx.Queue(`insert into stock (sku, on_hand) values ($1, $2)`, "a", 1)
			tx.Queue(`insert into stock (sku, on_hand) values ($1, $2)`, "b")
		},
	} {
		err := s.Run(t.Context(), func(_ context.Context, tx mainstay.Tx) error {
			queue(tx)
			return nil
		})
		if !errors.Is(err, errArguments) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
