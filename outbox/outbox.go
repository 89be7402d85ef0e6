// Package outbox appends messages to the outbox inside the caller's own transaction: they are published if that
// transaction commits, and were never there if it does not.
//
// # Lock, then append
//
// Messages of one key are handled in the order of their outbox position. On PostgreSQL a position is drawn when the
// row is inserted, so a transaction must hold a lock that all writers of the key share (its aggregate's row) before
// it appends, and appends as late as it can. On SQLite there is one writer at a time, and the order is that of the
// commits.
//
// The table is insert-only, and its columns are a superset of what Debezium's outbox event router expects.
package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
)

// Limits of a message: what a broker would refuse is refused at append.
const (
	MaxPayload = 512 << 10
	MaxKey     = 255
	MaxHeaders = 16 << 10
)

// Tx is a transaction of the caller: *sql.Tx and *sqlx.Tx fit, *sql.DB does not, so the transaction cannot be
// forgotten.
type Tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	Rollback() error
}

// Outbox writes to one database's outbox. It is safe for concurrent use.
type Outbox struct {
	dialect mainstay.Dialect
	lanes   int
}

// New is for a database with this many lanes; the number is a row of the database (see Open), never a choice.
func New(dialect mainstay.Dialect, lanes int) *Outbox { return &Outbox{dialect: dialect, lanes: lanes} }

// Open reads the number of lanes from the database.
func Open(ctx context.Context, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}, dialect mainstay.Dialect,
) (*Outbox, error) {
	var lanes int
	err := db.QueryRowContext(ctx, `/* outbox.lanes */ select lanes from meta`).Scan(&lanes)
	if err != nil {
		return nil, fmt.Errorf("reading the number of lanes: %w", err)
	}
	return New(dialect, lanes), nil
}

// Lanes is the number of lanes of every topic.
func (o *Outbox) Lanes() int { return o.lanes }

// Append writes msgs in this order, in the caller's transaction. It sets each message's Lane, and its ID where that
// is empty. An invalid message is an *InvalidError, and nothing was written. Any other error leaves the transaction
// to be rolled back.
func (o *Outbox) Append(ctx context.Context, tx Tx, msgs ...*mainstay.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if err := o.Prepare(msgs); err != nil {
		return err
	}
	if o.dialect == mainstay.SQLite {
		return appendTo(ctx, tx, msgs)
	}
	stmt := PostgresInsert(msgs)
	if _, err := tx.ExecContext(ctx, stmt.SQL, stmt.Args...); err != nil {
		return fmt.Errorf("appending to the outbox: %w", err)
	}
	return nil
}

// Prepare gives ids and lanes and refuses what a broker would refuse.
func (o *Outbox) Prepare(msgs []*mainstay.Message) error {
	for _, m := range msgs {
		if m.ID == "" {
			id, err := uuid.NewV7()
			if err != nil {
				return fmt.Errorf("making a message id: %w", err)
			}
			m.ID = id.String()
		}
		if err := Validate(m); err != nil {
			return &InvalidError{MessageID: m.ID, Err: err}
		}
		m.Lane = Lane(m.Key, o.lanes)
	}
	return nil
}

// InvalidError says why a message cannot be appended; no repetition will help.
type InvalidError struct {
	MessageID string
	Err       error
}

// Error names the message and what is wrong with it.
func (e *InvalidError) Error() string { return "invalid message " + e.MessageID + ": " + e.Err.Error() }

// Unwrap gives what is wrong.
func (e *InvalidError) Unwrap() error { return e.Err }

// made says that s is 1 to n bytes of a to z, 0 to 9 and what else is allowed.
func made(s string, n int, also func(c byte) bool) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && !also(c) {
			return false
		}
	}
	return s != "" && len(s) <= n
}

func isTopic(s string) bool { return made(s, 64, func(c byte) bool { return c == '-' }) }

func isType(s string) bool {
	return made(s, 128, func(c byte) bool { return c >= 'A' && c <= 'Z' || c == '.' || c == '_' || c == '-' })
}

func isHeader(s string) bool { return made(s, 20, func(byte) bool { return false }) }

// foreignTopic is where publishers that have no outbox write, for their messages to be copied into this one.
const foreignTopic = "in"

// ReservedHeader says whether a header cannot have this name, because the envelope itself has it on the wire. The
// attribute datacontenttype is free: with it a message says that its payload is not JSON.
func ReservedHeader(name string) bool {
	switch name {
	case "id", "source", "type", "time", "subject", "specversion", "dataschema", "partitionkey", "sequence",
		"incarnation", "since", "correlationid", "causationid", "traceparent", "aggregatetype":
		return true
	}
	return false
}

// Validate says what a broker would refuse about m, all of it.
func Validate(m *mainstay.Message) error {
	var errs []error
	if _, err := uuid.Parse(m.ID); err != nil || len(m.ID) != 36 {
		errs = append(errs, fmt.Errorf("the id %.40q is not a UUID", m.ID))
	}
	if !isTopic(m.Topic) {
		errs = append(errs, fmt.Errorf("the topic %.80q is not 1 to 64 of a-z, 0-9 and '-'", m.Topic))
	}
	if m.Topic == foreignTopic {
		errs = append(errs, fmt.Errorf("the topic %q is kept for foreign publishers", m.Topic))
	}
	if !isType(m.Type) {
		errs = append(errs, fmt.Errorf("the type %.80q is not 1 to 128 letters, digits, '.', '_' and '-'", m.Type))
	}
	if m.Key == "" || len(m.Key) > MaxKey || !clean(m.Key) {
		errs = append(errs, fmt.Errorf("the key must be 1 to %d bytes of text without control characters", MaxKey))
	}
	if len(m.Payload) > MaxPayload {
		errs = append(errs, fmt.Errorf("the payload has %d bytes, more than %d", len(m.Payload), MaxPayload))
	}
	size := 0
	for name, value := range m.Headers {
		size += len(name) + len(value)
		if !isHeader(name) || !clean(value) {
			errs = append(errs, fmt.Errorf("the header %.40q is not 1 to 20 of a-z and 0-9 with a value of clean text", name))
		}
		if ReservedHeader(name) {
			errs = append(errs, fmt.Errorf("the header %q has the name of a field of the envelope", name))
		}
	}
	if size > MaxHeaders {
		errs = append(errs, fmt.Errorf("the headers have %d bytes, more than %d", size, MaxHeaders))
	}
	for _, v := range []string{m.Source, m.AggregateType, m.AggregateID, m.CorrelationID, m.CausationID, m.Traceparent, m.DataSchema} {
		if len(v) > 512 || !clean(v) {
			errs = append(errs, fmt.Errorf("the attribute %.40q is longer than 512 bytes or not clean text", v))
		}
	}
	return errors.Join(errs...)
}

// clean says that s is UTF-8 without control characters.
func clean(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}

// Attributes is how a row keeps those parts of the envelope that have no column of their own.
type Attributes struct {
	Source        string            `json:"source,omitempty"`
	CorrelationID string            `json:"correlationid,omitempty"`
	CausationID   string            `json:"causationid,omitempty"`
	Traceparent   string            `json:"traceparent,omitempty"`
	DataSchema    string            `json:"dataschema,omitempty"`
	Headers       map[string]string `json:"headers,omitempty"`
}

// EncodeAttributes gives the row's headers column for m, as encoding/json would encode Attributes.
func EncodeAttributes(m *mainstay.Message) []byte {
	b := append(make([]byte, 0, 512), '{')
	for _, a := range [...]struct{ name, value string }{
		{"source", m.Source},
		{"correlationid", m.CorrelationID},
		{"causationid", m.CausationID},
		{"traceparent", m.Traceparent},
		{"dataschema", m.DataSchema},
	} {
		if a.value != "" {
			b = appendMember(b, a.name, a.value)
		}
	}
	if len(m.Headers) > 0 {
		b = append(appendName(b, "headers"), '{')
		names := make([]string, 0, 8)
		for name := range m.Headers {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			b = appendMember(b, name, m.Headers[name])
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

func appendMember(b []byte, name, value string) []byte { return appendText(appendName(b, name), value) }

func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	return append(appendText(b, name), ':')
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c < 0x20, c > 0x7e, c == '"', c == '\\', c == '<', c == '>', c == '&':
			text, _ := json.Marshal(s) // a string always encodes
			return append(b, text...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// DecodeAttributes fills m from a row's headers column.
func DecodeAttributes(b []byte, m *mainstay.Message) error {
	var a Attributes
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("decoding the attributes of message %s: %w", m.ID, err)
	}
	m.Source, m.CorrelationID, m.CausationID = a.Source, a.CorrelationID, a.CausationID
	m.Traceparent, m.DataSchema, m.Headers = a.Traceparent, a.DataSchema, a.Headers
	return nil
}
