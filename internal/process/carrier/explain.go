package carrier

import (
	"errors"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
)

// Explain tells an operator what to do about an error of opening a broker. No secret of the URL is in it.
func Explain(err error, url string) error {
	code, hint := app.ExitUnreachable, "Check that the server runs and that --broker names it."
	var settings *natsbroker.SettingsError
	switch {
	case errors.As(err, &settings) && settings.Lanes:
		code, hint = app.ExitConflict, "The number of lanes is fixed when a database is made: make this one anew, or give it a broker of its own. Leave the stream, which others use."
	case errors.As(err, &settings):
		code, hint = app.ExitConflict, "`nats stream edit "+settings.Stream+"` changes a setting; what cannot be changed needs a new stream: delete it, and it is made as it must be and filled again from the outbox."
	case errors.Is(err, natsbroker.ErrURL):
		code, hint = app.ExitUsage, "A broker's URL is nats://USER:PASSWORD@HOST:4222, or tls://; special characters in user and password are percent-encoded ('@' is %40, '/' is %2F)."
	case errors.Is(err, natsbroker.ErrAccess):
		hint = "Check the user and password, or the token, in the URL, or the file of nats_creds or nats_nkey; and that the server knows that user."
	case errors.Is(err, natsbroker.ErrTLS):
		hint = "Check that nats_tls_ca has the authority of the server's certificate, that the URL names a host of that certificate, and that nats_tls_cert is one the server trusts if it asks for one; nats:// is without TLS unless the server asks for it."
	case errors.Is(err, natsbroker.ErrForbidden):
		hint = "The guide on PostgreSQL and NATS lists the subjects that each process must be allowed to publish and subscribe to."
	case errors.Is(err, natsbroker.ErrServer):
		code, hint = app.ExitConflict, "Use NATS 2.15 or later with JetStream enabled for the server and the account, and at least as many servers as nats_replicas says."
	}
	return app.Errorf(code, hint, "opening the broker %s: %w", app.Redact(url), err)
}
