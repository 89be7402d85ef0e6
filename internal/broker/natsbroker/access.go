package natsbroker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

// Access is how a connection shows who it is, and whom it trusts, beside what the URL says: paths of files, each of
// which may be empty. All but the user of NKey are read anew at each reconnection, so they can be replaced while the
// process runs.
type Access struct {
	// Creds has a JWT and the seed that belongs to it, NKey a seed alone.
	Creds, NKey string
	// CA has the certificates by which a server's is trusted, in PEM; those of the machine when empty.
	CA string
	// Cert and Key are the client's own certificate and its key, in PEM.
	Cert, Key string
}

// options are the files as options of a connection. Those that cannot be used are found now.
func (a Access) options() ([]nats.Option, error) {
	var opts []nats.Option
	if a.Creds != "" {
		if err := readCreds(a.Creds); err != nil {
			return nil, fmt.Errorf("%w: reading the credentials file %s: %w", ErrAccess, a.Creds, err)
		}
		opts = append(opts, nats.UserCredentials(a.Creds))
	}
	if a.NKey != "" {
		opt, err := nats.NkeyOptionFromSeed(a.NKey)
		if err != nil {
			return nil, fmt.Errorf("%w: reading the nkey seed file %s: %w", ErrAccess, a.NKey, err)
		}
		opts = append(opts, opt)
	}
	if a.CA != "" {
		if pem, err := os.ReadFile(a.CA); err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return nil, errors.Join(fmt.Errorf("%w: the file %s has no certificates in PEM", ErrTLS, a.CA), err)
		}
		opts = append(opts, nats.RootCAs(a.CA))
	}
	if a.Cert != "" {
		if _, err := tls.LoadX509KeyPair(a.Cert, a.Key); err != nil {
			return nil, fmt.Errorf("%w: reading the certificate %s and its key %s: %w", ErrTLS, a.Cert, a.Key, err)
		}
		opts = append(opts, nats.ClientCert(a.Cert, a.Key))
	}
	return opts, nil
}

func readCreds(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if _, err := nkeys.ParseDecoratedJWT(text); err != nil {
		return err
	}
	_, err = nkeys.ParseDecoratedUserNKey(text)
	return err
}

const (
	// needMajor and needMinor are the oldest server that has atomic batches as they are used here.
	needMajor, needMinor = 2, 15
	// electionPatience is how long a cluster that has just started may take to agree on its leaders.
	electionPatience = 20 * time.Second
	electionTick     = 200 * time.Millisecond
	// answerPatience is for how long one question is waited for meanwhile: a leader that lost its office has taken it
	// along.
	answerPatience = 3 * time.Second
)

// connect opens the connection. It buffers nothing while it is down: a publish fails at once instead of arriving
// late. It goes on trying for ever, also when the server refuses the credentials: they may be in the middle of a change.
func connect(cfg Config, denied *denials) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("mainstay"), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(200 * time.Millisecond), nats.PingInterval(20 * time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			denied.note(err)
			cfg.Logger.Warn("connection to NATS", slog.Any("err", err))
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				cfg.Logger.Warn("connection to NATS lost, reconnecting", slog.Any("err", err))
			}
		}),
	}
	if cfg.InProcess != nil {
		opts = append(opts, nats.InProcessServer(cfg.InProcess))
	}
	access, err := cfg.Access.options()
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(cfg.URL, append(opts, access...)...)
	if err != nil {
		return nil, connectError(err)
	}
	if version := nc.ConnectedServerVersion(); tooOld(version) {
		nc.Close()
		return nil, fmt.Errorf("%w: it is version %s, and %d.%d or later is needed", ErrServer, version, needMajor, needMinor)
	}
	return nc, nil
}

// tooOld says whether a server's version is one that lacks what is needed.
func tooOld(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	m, err := strconv.Atoi(major)
	n, minorErr := strconv.Atoi(minor)
	return errors.Join(err, minorErr) != nil || m < needMajor || m == needMajor && n < needMinor
}

// denials keeps what the server last forbade: it says so beside the request, whose answer then never comes.
type denials struct{ last atomic.Pointer[error] }

func (d *denials) note(err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		d.last.Store(&err)
	}
}

// explain adds to err what was forbidden meanwhile, if that is why there was no answer.
func (d *denials) explain(err error) error {
	last := d.last.Load()
	if err == nil || last == nil || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrForbidden, *last)
}

// patiently repeats what fails because a cluster has not yet agreed on its leaders, or what nobody has answered,
// unless that is because it was forbidden.
func patiently(ctx context.Context, denied *denials, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, electionPatience)
	defer cancel()
	tick := time.NewTicker(electionTick)
	defer tick.Stop()
	for {
		err := within(ctx, answerPatience, do)
		unanswered := errors.Is(err, context.DeadlineExceeded) && denied.last.Load() == nil
		if !unanswered && !electing(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// electing says whether a server answered that it has to wait for others.
func electing(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == codeNoLeader || api.ErrorCode == codeNoPeers)
}
