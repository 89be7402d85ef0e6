package natsbroker

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay/internal/broker"
)

// Why a server cannot be used.
var (
	// ErrAccess: it does not take the credentials, or they cannot be read.
	ErrAccess = errors.New("the credentials are refused")
	// ErrTLS: one side does not trust the other, or does not speak TLS.
	ErrTLS = errors.New("no trusted TLS connection")
	// ErrForbidden: its permissions do not allow what is needed.
	ErrForbidden = errors.New("the permissions do not allow it")
	// ErrServer: it is too old, has no JetStream, or not enough servers.
	ErrServer = errors.New("the server is not fit")
	// ErrURL: the URL cannot be read. What it says is not repeated, as it may be a secret.
	ErrURL = errors.New("the URL cannot be read")
)

// SettingsError says that a stream could not keep the promise.
type SettingsError struct {
	Stream string
	// Settings are sentences, each about one that is wrong: its name as the server has it, and what it must be.
	Settings []string
	// Lanes says that one of them is the number of lanes: then the stream is right for the databases that have it.
	Lanes bool
}

// Error names every setting that is wrong.
func (e *SettingsError) Error() string {
	return "stream " + e.Stream + ": " + strings.Join(e.Settings, "; ")
}

// connectError gives a failed connection its meaning.
func connectError(err error) error {
	var (
		unread *url.Error
		op     *net.OpError
	)
	switch {
	case errors.As(err, &unread):
		return ErrURL
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrNkeysNotSupported):
		return fmt.Errorf("%w: %w", ErrAccess, err)
	case errors.Is(err, nats.ErrTLS), errors.Is(err, nats.ErrSecureConnWanted), errors.Is(err, nats.ErrSecureConnRequired),
		errors.As(err, &op) && op.Op == "remote error": // the alert of a server that refuses our certificate
		return fmt.Errorf("%w: %w", ErrTLS, err)
	}
	return err
}

// streamError gives a failed look at the stream, or a failed creation, its meaning.
func streamError(err error) error {
	var api *jetstream.APIError
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("%w: no JetStream answers: %w", ErrServer, err)
	}
	if !errors.As(err, &api) {
		return err
	}
	switch api.ErrorCode {
	case jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount,
		codeNoReplicas, codeNoPeers, codeNoLeader:
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	return err
}

// Error codes of the server that the client library has no names for.
const (
	codeInsufficientResources jetstream.ErrorCode = 10023
	codeStorageExceeded       jetstream.ErrorCode = 10047
	codeStoreFailed           jetstream.ErrorCode = 10077 // of a stream that discards new messages: it is full
	codeHeaderTooLarge        jetstream.ErrorCode = 10097
	codeNoPeers               jetstream.ErrorCode = 10005 // too few servers for so many replicas
	codeNoLeader              jetstream.ErrorCode = 10008 // of the cluster, at the moment
	codeNoReplicas            jetstream.ErrorCode = 10074 // of a server that is alone
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
