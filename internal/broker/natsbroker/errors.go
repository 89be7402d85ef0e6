package natsbroker

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay/internal/broker"
)

// Error codes of the server that the client library has no names for.
const (
	codeInsufficientResources jetstream.ErrorCode = 10023
	codeStorageExceeded       jetstream.ErrorCode = 10047
	codeStoreFailed           jetstream.ErrorCode = 10077 // of a stream that discards new messages: it is full
	codeHeaderTooLarge        jetstream.ErrorCode = 10097
)

// errReplaced means that the stream is not the one that was read so far.
var errReplaced = errors.New("the stream was deleted and created again")

// errWentBack means that the record that was read last is not there any more.
var errWentBack = errors.New("the stream went back to an earlier state")

// translate gives a failed publish its meaning by the server's code; whatever is not a definite answer leaves the
// outcome unknown.
func translate(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return fmt.Errorf("%w: %w", broker.ErrConflict, err)
		case codeInsufficientResources, codeStorageExceeded, codeStoreFailed:
			return fmt.Errorf("%w: %w", broker.ErrFull, err)
		}
	}
	return fmt.Errorf("%w: %w", broker.ErrUnknown, err)
}

// tooLarge says whether the server refuses a message for its size.
func tooLarge(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, nats.ErrMaxPayload) || errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum || api.ErrorCode == codeHeaderTooLarge)
}

// streamIsGone says whether an error means that there is no such stream.
func streamIsGone(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, nats.ErrNoResponders)
}
