package ingest

import (
	"context"
	"errors"
	"time"

	"github.com/mainstay-io/mainstay"
)

// Errors by which a Store says what became of a group. Any other error is taken as the fault of an item in the
// group: the group is split until the culprit stands alone.
var (
	// ErrUnavailable: the database could not be asked, or could not commit (no connection, disk full, deadlock or
	// serialization failure repeated in vain); nothing was written. It is nobody's fault in the group.
	ErrUnavailable = errors.New("ingest: the database is not available")
	// ErrAmbiguous: the connection was lost during the commit; nobody knows whether it happened.
	ErrAmbiguous = errors.New("ingest: the outcome of the commit is not known")
	// ErrKeyBusy: another process holds the row of a key of the group for longer than the lock timeout; nothing
	// was written.
	ErrKeyBusy = errors.New("ingest: a key is locked by another process")
)

// Request is one thing to accept under one idempotency key.
type Request struct {
	// Principal, Route and Key identify the client's intention: who, at which route ("POST /v1/orders"), under
	// which idempotency key.
	Principal string
	Route     string
	Key       string
	// Fingerprint tells two bodies under one key apart; see Fingerprint.
	Fingerprint [32]byte
	// Answer is what the client gets, and gets again for the same key; it is stored with the key. Its body must
	// be unique to this request (it holds the id of what is created), since that is how a request recognises its
	// own record after an ambiguous commit.
	Answer Answer
	// Retention is how long the key is kept, counted from the commit. Not above zero: the record is stored, and
	// the next request with the key replaces it. Ingest fills it from its Config.
	Retention time.Duration
	// Item is what the write function stores; nothing in this package looks at it.
	Item any
}

// Answer is a response, as it is stored and repeated.
type Answer struct {
	Status int
	// Header has Content-Type, Location and the like, by canonical name; it is stored as a JSON object.
	Header map[string]string
	Body   []byte
}

// Record is what is stored under a key.
type Record struct {
	Fingerprint [32]byte
	Answer      Answer
	CreatedAt   time.Time
}

// Result is what became of one request of a group: it won (its record and its item are committed), or a live record
// was there before.
type Result struct {
	Fresh bool
	// Existing is the record that was found; only when Fresh is false.
	Existing Record
}

// WriteFunc stores the items of the requests that won, in the transaction that stores their records. It must be
// repeatable: it is called again when the transaction is. Messages that it sends go to the outbox with the commit.
type WriteFunc func(ctx context.Context, tx mainstay.Tx, winners []*Request) error

// Store keeps idempotency records. It is safe for concurrent use.
type Store interface {
	// Accept inserts the records of the group where there is no live one, calls write once for the winners (not at
	// all when there are none), and commits, all in one transaction. A record past its retention counts as none
	// and is replaced. Requests come in the order of (Principal, Route, Key), no two alike, and records are
	// inserted in that order, so that two groups cannot deadlock; a key that another transaction is inserting is
	// waited for, up to a short lock timeout. A record that is found is read after that wait, so it is committed.
	//
	// The results are in the order of the group. With an error there are none, and nothing was written, except for
	// ErrAmbiguous. The error of write is passed on in the chain.
	Accept(ctx context.Context, group []*Request, write WriteFunc) ([]Result, error)
}
