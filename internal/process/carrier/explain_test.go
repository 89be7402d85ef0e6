package carrier_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
	"github.com/mainstay-io/mainstay/internal/testkit/natstest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// named is a database of which only the name and the number of lanes are asked.
type named struct{ process.Store }

func (named) Lanes() int { return 16 }

func (named) Origin() string { return "a database" }

// TestOpen_SaysWhatToDo opens brokers that cannot be used: the error says what to do next, and shows no secret.
func TestOpen_SaysWhatToDo(t *testing.T) {
	t.Parallel()
	const secret = "s3cretword"
	locked := natstest.New(t, `authorization { token: "`+secret+`" }`)
	plain := natstest.New(t)
	nobody := proc.FreeAddr(t)
	used := natstest.New(t)
	other, err := natsbroker.Open(t.Context(), natsbroker.Config{URL: used.URL(), Origin: "another", Lanes: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	for name, c := range map[string]struct {
		cfg  app.Config
		code int
		hint string
	}{
		"nobody there":      {app.Config{Broker: "nats://" + nobody}, app.ExitUnreachable, "Check that the server runs"},
		"a wrong password":  {app.Config{Broker: "nats://alice:" + secret + "@" + locked.Addr()}, app.ExitUnreachable, "Check the user and password"},
		"a wrong token":     {app.Config{Broker: "nats://" + secret + "2@" + locked.Addr()}, app.ExitUnreachable, "or the token"},
		"no TLS":            {app.Config{Broker: "tls://" + secret + "@" + plain.Addr()}, app.ExitUnreachable, "nats_tls_ca"},
		"too few servers":   {app.Config{Broker: plain.URL(), NATSReplicas: 3}, app.ExitConflict, "as many servers as nats_replicas"},
		"other lanes":       {app.Config{Broker: used.URL()}, app.ExitConflict, "make this one anew"},
		"an unreadable URL": {app.Config{Broker: "nats://alice:" + secret + "%zz@" + plain.Addr()}, app.ExitUsage, "percent-encoded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := carrier.Open(t.Context(), c.cfg, &process.Database{Store: named{}}, slog.New(slog.DiscardHandler))
			if err == nil || app.ExitCode(t.Context(), err) != c.code || !strings.Contains(app.HintOf(err), c.hint) {
				t.Fatalf("got %v, code %d, hint %q", err, app.ExitCode(t.Context(), err), app.HintOf(err))
			}
			if strings.Contains(err.Error()+app.HintOf(err), secret) {
				t.Errorf("the secret is shown: %v", err)
			}
		})
	}
}
