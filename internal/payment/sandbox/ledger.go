package sandbox

import (
	"bytes"
	"fmt"

	"github.com/mainstay-io/mainstay/internal/payment"
)

// Status is where an authorisation stands.
type Status string

// Statuses of an authorisation.
const (
	Authorised Status = "authorised" // the amount is held
	Captured   Status = "captured"
	Voided     Status = "voided"    // it was held, and was given back
	Declined   Status = "declined"  // it never was held
	Cancelled  Status = "cancelled" // the mark of a cancel that came before its authorisation
)

// Authorisation is a row of the sandbox's ledger. Amounts are in minor units of Currency; of a Cancelled one they are
// zero and the currency is empty.
type Authorisation struct {
	Key      string
	OrderRef string
	Amount   int64
	Currency string
	Status   Status
	// CapturedAmount and VoidedAmount are what became of Amount; at most one of them is not zero.
	CapturedAmount, VoidedAmount int64
}

// Test tokens.
const (
	TokenOK                = "tok_ok"
	TokenDeclined          = "tok_declined"
	TokenInsufficientFunds = "tok_insufficient_funds"
	TokenTimeout           = "tok_timeout"
	TokenFlaky             = "tok_flaky"
	TokenCaptureRejected   = "tok_capture_rejected"
	TokenVoidFails         = "tok_void_fails"
)

// flakyFailures is how often tok_flaky is unavailable.
const flakyFailures = 2

type opKind int

const (
	opAuthorise opKind = iota
	opCapture
	opCancel
)

// op is one operation on its way through the writer. Its results belong to the writer until done is closed.
type op struct {
	kind     opKind
	key, ref string
	amount   int64
	currency string
	token    string
	hash     []byte

	err       error // the answer
	late      bool  // the answer is to come after the caller's deadline
	cancelled payment.Cancellation
	failed    error // the transaction's failure: there is no answer
	done      chan struct{}
}

func newOp(kind opKind, key, ref string) *op {
	return &op{kind: kind, key: key, ref: ref, done: make(chan struct{})}
}

func (o *op) reject(code, detail string) { o.err = &payment.Rejected{Code: code, Detail: detail} }

// authorisation is a row with what the sandbox itself must remember of it.
type authorisation struct {
	Authorisation
	token        string // decides how it behaves later on
	hash         []byte // of the request; empty for a mark
	code, detail string // of the rejection
}

// capture is the answer that was given to a capture.
type capture struct {
	key, ref     string
	hash         []byte
	code, detail string // empty when it was done
}

// ledger is the part of the store that a group of operations needs, in memory; its maps tell what was loaded, the
// dirty lists what must be written.
type ledger struct {
	byKey    map[string]*authorisation
	byRef    map[string][]*authorisation // in the order of their making
	captures map[string]*capture
	attempts map[string]int

	dirty         []*authorisation
	marked        map[*authorisation]bool
	dirtyCaptures []*capture
	dirtyAttempts map[string]int
}

func newLedger() *ledger {
	return &ledger{
		byKey: map[string]*authorisation{}, byRef: map[string][]*authorisation{},
		captures: map[string]*capture{}, attempts: map[string]int{},
		marked: map[*authorisation]bool{}, dirtyAttempts: map[string]int{},
	}
}

// add puts a loaded row in; rows must come in the order of their making.
func (l *ledger) add(a *authorisation) {
	if l.byKey[a.Key] != nil {
		return
	}
	l.byKey[a.Key] = a
	l.byRef[a.OrderRef] = append(l.byRef[a.OrderRef], a)
}

func (l *ledger) touch(a *authorisation) {
	if !l.marked[a] {
		l.marked[a] = true
		l.dirty = append(l.dirty, a)
	}
}

// apply carries out o and leaves its answer in it.
func (l *ledger) apply(o *op) {
	o.err, o.late, o.cancelled = nil, false, payment.Cancellation{}
	switch o.kind {
	case opAuthorise:
		l.authorise(o)
	case opCapture:
		l.capture(o)
	case opCancel:
		l.cancel(o)
	}
}

func (l *ledger) authorise(o *op) {
	if a := l.byKey[o.key]; a != nil {
		repeatAuthorise(a, o)
		return
	}
	if o.amount <= 0 || len(o.currency) != 3 {
		o.reject("invalid_amount", "an amount above zero and a currency of three letters are needed")
		return
	}
	if o.token == TokenFlaky && l.attempts[o.key] < flakyFailures {
		l.attempts[o.key]++
		l.dirtyAttempts[o.key] = l.attempts[o.key]
		o.err = ErrUnavailable
		return
	}
	a := &authorisation{
		Authorisation: Authorisation{Key: o.key, OrderRef: o.ref, Amount: o.amount, Currency: o.currency, Status: Authorised},
		token:         o.token, hash: o.hash,
	}
	if code, detail := refusal(o.token); code != "" {
		a.Status, a.code, a.detail = Declined, code, detail
		o.reject(code, detail)
	}
	o.late = o.token == TokenTimeout
	l.add(a)
	l.touch(a)
}

func repeatAuthorise(a *authorisation, o *op) {
	switch {
	case a.OrderRef != o.ref, a.Status != Cancelled && !bytes.Equal(a.hash, o.hash):
		o.err = payment.ErrKeyReused
	case a.Status == Cancelled, a.Status == Voided:
		o.reject(payment.CodeCancelled, "the authorisation was cancelled")
	case a.Status == Declined:
		o.reject(a.code, a.detail)
	}
}

// refusal says why a token cannot be authorised; no code when it can.
func refusal(token string) (code, detail string) {
	switch token {
	case TokenOK, TokenTimeout, TokenFlaky, TokenCaptureRejected, TokenVoidFails:
		return "", ""
	case TokenDeclined:
		return "card_declined", "the issuer declined the card"
	case TokenInsufficientFunds:
		return "insufficient_funds", "the account does not cover the amount"
	default:
		return "invalid_token", "the payment token is not known"
	}
}

func (l *ledger) capture(o *op) {
	if c := l.captures[o.key]; c != nil {
		switch {
		case !bytes.Equal(c.hash, o.hash):
			o.err = payment.ErrKeyReused
		case c.code != "":
			o.reject(c.code, c.detail)
		}
		return
	}
	c := &capture{key: o.key, ref: o.ref, hash: o.hash}
	if a, why := l.capturable(o); why != "" {
		c.code, c.detail = payment.CodeCaptureRejected, why
		o.reject(c.code, c.detail)
	} else {
		a.Status, a.CapturedAmount = Captured, a.Amount
		l.touch(a)
	}
	l.captures[o.key] = c
	l.dirtyCaptures = append(l.dirtyCaptures, c)
}

// capturable finds the oldest open authorisation of the order, or says why there is none to capture.
func (l *ledger) capturable(o *op) (*authorisation, string) {
	for _, a := range l.byRef[o.ref] {
		switch {
		case a.Status != Authorised:
		case a.token == TokenCaptureRejected:
			return nil, "the authorisation has expired"
		case a.Amount != o.amount || a.Currency != o.currency:
			return nil, fmt.Sprintf("%d %s is authorised, not %d %s", a.Amount, a.Currency, o.amount, o.currency)
		default:
			return a, ""
		}
	}
	return nil, "there is no open authorisation for the order"
}

func (l *ledger) cancel(o *op) {
	a := l.byKey[o.key]
	switch {
	case a == nil:
		a = &authorisation{Authorisation: Authorisation{Key: o.key, OrderRef: o.ref, Status: Cancelled}, hash: []byte{}}
		l.add(a)
		l.touch(a)
	case a.OrderRef != o.ref:
		o.err = payment.ErrKeyReused
	case a.Status == Captured:
		o.reject(payment.CodeAlreadyCaptured, "the amount was captured")
	case a.Status == Authorised && a.token == TokenVoidFails:
		o.err = ErrUnavailable
	case a.Status == Authorised:
		a.Status, a.VoidedAmount = Voided, a.Amount
		l.touch(a)
	}
	if o.err == nil && a.Status == Voided {
		o.cancelled = payment.Cancellation{Voided: true, Amount: a.Amount, Currency: a.Currency}
	}
}
