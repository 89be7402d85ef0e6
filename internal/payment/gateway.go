package payment

import (
	"context"
	"errors"
)

// Gateway is the payment provider as this context needs it. Every call carries an idempotency key: a repetition with
// the same key and the same request has no further effect and gets the answer of the first.
//
// Errors are of three kinds. A *Rejected is definite: the call had no effect and a repetition will not have one
// either. ErrKeyReused is definite too, and the caller's bug. Any other error, a deadline included, means that
// nobody knows: the call may have been done, may be done later, or never. Only repeating it with the same key tells.
//
// Methods are called by many goroutines at once, block until the provider has answered or ctx ends, and answer only
// what the provider has made durable.
type Gateway interface {
	// Authorise holds an amount on the payer's account.
	Authorise(ctx context.Context, key string, r AuthoriseRequest) error
	// Capture takes the amount that is held for the order. Amount and currency must be those that were authorised.
	Capture(ctx context.Context, key string, r CaptureRequest) error
	// Cancel gives back what was authorised under key, which is the key of the authorisation, not one of its own.
	// It leaves a mark: an authorisation with that key that arrives later is rejected with CodeCancelled. So after
	// Cancel has answered, nothing is held under key, whether the authorisation came before, comes later, or never.
	// What was captured is not given back: then Cancel is rejected with CodeAlreadyCaptured.
	Cancel(ctx context.Context, key string, r CancelRequest) (Cancellation, error)
}

// AuthoriseRequest asks for a hold.
type AuthoriseRequest struct {
	// OrderRef is the merchant's reference, by which Capture finds the authorisation.
	OrderRef string
	// Amount is in minor units of Currency (ISO 4217), above zero.
	Amount   int64
	Currency string
	// Token stands for the payer's means of payment. It is a secret.
	Token string
}

// CaptureRequest asks for what is held.
type CaptureRequest struct {
	OrderRef string
	Amount   int64
	Currency string
}

// CancelRequest says what a cancelled key belongs to, for the case that the authorisation has not arrived.
type CancelRequest struct {
	OrderRef string
}

// Cancellation is what Cancel did.
type Cancellation struct {
	// Voided says that something was held and was given back: Amount in Currency. Repetitions say the same.
	Voided   bool
	Amount   int64
	Currency string
}

// Codes of rejections that every gateway uses in these cases.
const (
	CodeCancelled       = "cancelled"        // the authorisation's key was cancelled before
	CodeCaptureRejected = "capture_rejected" // nothing can be captured for the order
	CodeAlreadyCaptured = "already_captured" // too late to cancel
)

// ErrKeyReused means that a key was used before with another request.
var ErrKeyReused = errors.New("payment: idempotency key was used with another request")

// Rejected is a definite refusal. Code is stable and fit for machines; Detail is for people, without personal data.
type Rejected struct{ Code, Detail string }

// Error gives code and detail.
func (r *Rejected) Error() string {
	if r.Detail == "" {
		return "payment rejected: " + r.Code
	}
	return "payment rejected: " + r.Code + ": " + r.Detail
}
