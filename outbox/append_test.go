package outbox_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	_ "modernc.org/sqlite" // the driver

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/outbox"
)

var _ outbox.Tx = (*sql.Tx)(nil)

// TestTx_IsNoDatabase: who has no transaction cannot append.
func TestTx_IsNoDatabase(t *testing.T) {
	t.Parallel()
	for _, v := range []any{(*sql.DB)(nil), (*sql.Conn)(nil)} {
		if _, ok := v.(outbox.Tx); ok {
			t.Errorf("%T fits", v)
		}
	}
}

func newDatabase(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := migrate.Up(t.Context(), db, mainstay.SQLite, 4); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestAppend_CommitsWithItsTransaction(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	ob, err := outbox.Open(t.Context(), db, mainstay.SQLite)
	if err != nil || ob.Lanes() != 4 {
		t.Fatal(ob, err)
	}
	for i, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback, (*sql.Tx).Commit} {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var ms []*mainstay.Message
		for range 2 {
			ms = append(ms, &mainstay.Message{Topic: "orders", Key: "k", Type: "order.placed", Payload: []byte{byte(i)}})
		}
		if err := ob.Append(t.Context(), tx, ms...); err != nil {
			t.Fatal(err)
		}
		if ms[0].ID == "" || ms[0].ID == ms[1].ID || ms[0].Lane != outbox.Lane("k", 4) {
			t.Fatalf("appended %+v", ms[0])
		}
		if err := end(tx); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := db.QueryContext(t.Context(), "select sequence, payload, created_at > 0 from outbox order by position")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got [][2]int
	for rows.Next() {
		var sequence int
		var payload []byte
		var timed bool
		if err := rows.Scan(&sequence, &payload, &timed); err != nil || !timed {
			t.Fatal(timed, err)
		}
		got = append(got, [2]int{sequence, int(payload[0])})
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][2]int{{1, 0}, {2, 0}, {3, 2}, {4, 2}}, got); diff != "" {
		t.Fatalf("sequence and payload (-want +got):\n%s", diff)
	}
}

func TestAppend_RefusesAllForOne(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	good := &mainstay.Message{Topic: "orders", Key: "k", Type: "order.placed"}
	var invalid *outbox.InvalidError
	err = outbox.New(mainstay.SQLite, 4).Append(t.Context(), tx, good, &mainstay.Message{Topic: "orders", Type: "order.placed"})
	if !errors.As(err, &invalid) {
		t.Fatalf("got %v", err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := db.QueryRowContext(t.Context(), "select count(*) from outbox").Scan(&n); err != nil || n != 0 {
		t.Fatalf("%d rows, %v", n, err)
	}
}

// FuzzAttributes: what a row keeps of an envelope comes back, and no bytes make the decoder panic.
func FuzzAttributes(f *testing.F) {
	f.Add("source", "story", "name", "value", []byte(`{"source":"s"}`))
	f.Add("", "", "", "\u2028<>&", []byte(`{`))
	f.Fuzz(func(t *testing.T, source, correlation, name, value string, raw []byte) {
		_ = outbox.DecodeAttributes(raw, &mainstay.Message{})
		for _, s := range []string{source, correlation, name, value} {
			if !utf8.ValidString(s) {
				return // refused at append
			}
		}
		m := &mainstay.Message{Source: source, CorrelationID: correlation, Headers: map[string]string{name: value}}
		b := outbox.EncodeAttributes(m)
		want, err := json.Marshal(outbox.Attributes{Source: source, CorrelationID: correlation, Headers: m.Headers})
		if err != nil || string(b) != string(want) {
			t.Fatalf("got %s, want %s, %v", b, want, err)
		}
		got := &mainstay.Message{}
		if err := outbox.DecodeAttributes(b, got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}
