package natsbroker_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/testkit/natstest"
)

// secretWord is in every secret of these tests, and in no error.
const secretWord = "s3cretword"

func TestOpen_ShowsWhoItIs(t *testing.T) {
	t.Parallel()
	key, others := natstest.NewSeed(t, nkeys.CreateUser), natstest.NewSeed(t, nkeys.CreateUser)
	operator := natstest.NewOperator(t)
	for name, c := range map[string]struct {
		settings    string
		right       string // user information of the URL
		rightAccess natsbroker.Access
		wrong       []string
		wrongAccess []natsbroker.Access
	}{
		"user and password": {
			settings: `authorization { user: alice, password: "` + secretWord + `" }`,
			right:    "alice:" + secretWord + "@", wrong: []string{"", "alice:" + secretWord + "2@", secretWord + "@"},
		},
		"token": {
			settings: `authorization { token: "` + secretWord + `" }`,
			right:    secretWord + "@", wrong: []string{"", secretWord + "2@"},
		},
		"nkey": {
			settings:    `authorization { users: [ { nkey: ` + key.Public + ` } ] }`,
			rightAccess: natsbroker.Access{NKey: key.File},
			wrong:       []string{""}, wrongAccess: []natsbroker.Access{{NKey: others.File}, {NKey: junkFile(t)}},
		},
		"credentials": {
			settings:    operator.Settings,
			rightAccess: natsbroker.Access{Creds: operator.Creds(t)},
			wrong:       []string{""}, wrongAccess: []natsbroker.Access{{Creds: natstest.NewOperator(t).Creds(t)}, {Creds: junkFile(t)}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natstest.New(t, c.settings)
			url := func(user string) string { return "nats://" + user + srv.Addr() }
			b := open(t, natsbroker.Config{URL: url(c.right), Access: c.rightAccess, Sync: natsbroker.SyncLazy})
			sub := subscribe(t, b, brokertest.Log(0))
			publish(t, b, 1, 20)
			brokertest.Collect(t, sub, 20)
			for _, user := range c.wrong {
				wantRefused(t, natsbroker.Config{URL: url(user)}, natsbroker.ErrAccess)
			}
			for _, access := range c.wrongAccess {
				wantRefused(t, natsbroker.Config{URL: url(""), Access: access}, natsbroker.ErrAccess)
			}
		})
	}
}

func wantRefused(t *testing.T, cfg natsbroker.Config, want error) {
	t.Helper()
	b, err := natsbroker.Open(t.Context(), cfg)
	if err == nil {
		_ = b.Close()
	}
	if !errors.Is(err, want) || strings.Contains(err.Error(), secretWord) {
		t.Errorf("%+v: got %v, want %v", cfg.Access, err, want)
	}
}

func TestOpen_Encrypts(t *testing.T) {
	t.Parallel()
	ca, strange := natstest.NewAuthority(t), natstest.NewAuthority(t)
	cert, key := ca.Issue(t, "server")
	client, clientKey := ca.Issue(t, "client")
	foreign, foreignKey := strange.Issue(t, "client")
	plain := natstest.New(t)
	oneSided := natstest.New(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q }", cert, key))
	mutual := natstest.New(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", cert, key, ca.File))
	for name, c := range map[string]struct {
		url    string
		access natsbroker.Access
		want   error
	}{
		"trusted":                   {"tls://" + oneSided.Addr(), natsbroker.Access{CA: ca.File}, nil},
		"asked for by the server":   {oneSided.URL(), natsbroker.Access{CA: ca.File}, nil},
		"both sides":                {"tls://" + mutual.Addr(), natsbroker.Access{CA: ca.File, Cert: client, Key: clientKey}, nil},
		"the machine's authorities": {"tls://" + oneSided.Addr(), natsbroker.Access{}, natsbroker.ErrTLS},
		"another authority":         {"tls://" + oneSided.Addr(), natsbroker.Access{CA: strange.File}, natsbroker.ErrTLS},
		"no certificate shown":      {"tls://" + mutual.Addr(), natsbroker.Access{CA: ca.File}, natsbroker.ErrTLS},
		"a stranger's certificate":  {"tls://" + mutual.Addr(), natsbroker.Access{CA: ca.File, Cert: foreign, Key: foreignKey}, natsbroker.ErrTLS},
		"a server without":          {"tls://" + plain.Addr(), natsbroker.Access{CA: ca.File}, natsbroker.ErrTLS},
		"a key of another":          {"tls://" + mutual.Addr(), natsbroker.Access{CA: ca.File, Cert: client, Key: foreignKey}, natsbroker.ErrTLS},
		"junk for an authority":     {"tls://" + mutual.Addr(), natsbroker.Access{CA: junkFile(t)}, natsbroker.ErrTLS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := natsbroker.Config{URL: c.url, Access: c.access, Sync: natsbroker.SyncLazy, Prefix: strings.ReplaceAll(name, " ", "-")}
			if c.want != nil {
				cfg.Prefix = ""
				wantRefused(t, cfg, c.want)
				return
			}
			publish(t, open(t, cfg), 1, 1)
		})
	}
}

func TestOpen_HidesAURLThatCannotBeRead(t *testing.T) {
	t.Parallel()
	wantRefused(t, natsbroker.Config{URL: "nats://alice:" + secretWord + "%zz@127.0.0.1:4222"}, natsbroker.ErrURL)
}

// TestBroker_WaitsForItsCredentials changes the server's password under a connection and back again.
func TestBroker_WaitsForItsCredentials(t *testing.T) {
	t.Parallel()
	password := func(word string) string { return `authorization { user: alice, password: "` + word + `" }` }
	srv := natstest.New(t, password(secretWord))
	b := open(t, natsbroker.Config{URL: "nats://alice:" + secretWord + "@" + srv.Addr(), Sync: natsbroker.SyncLazy})
	publish(t, b, 1, 2)
	srv.Stop()
	srv.Configure(password("another"))
	srv.Start()
	until(t, "it says that it is refused", func() bool { return errors.Is(b.Ready(t.Context()), natsbroker.ErrAccess) })
	srv.Stop()
	srv.Configure(password(secretWord))
	srv.Start()
	publishUntilStored(t, b, 3, 4)
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(90 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestOpen_SaysWhatIsForbidden(t *testing.T) {
	t.Parallel()
	srv := natstest.New(t, `authorization { users: [ { user: alice, password: "`+secretWord+`", permissions: { publish: ["mainstay.>"], subscribe: ["_INBOX.>"] } } ] }`)
	url := "nats://alice:" + secretWord + "@" + srv.Addr()
	wantRefused(t, natsbroker.Config{URL: url, AckTimeout: time.Second}, natsbroker.ErrForbidden)
}

func TestOpen_RefusesServersThatAreNotFit(t *testing.T) {
	t.Parallel()
	wantRefused(t, natsbroker.Config{URL: "nats://" + oldServer(t, "2.14.7")}, natsbroker.ErrServer)
	wantRefused(t, natsbroker.Config{URL: natstest.NewWithoutJetStream(t).URL()}, natsbroker.ErrServer)
	wantRefused(t, natsbroker.Config{URL: natstest.New(t).URL(), Replicas: 3}, natsbroker.ErrServer)
}

// oldServer greets as a server of that version would, which is as far as a client gets that looks at it.
func oldServer(t *testing.T, version string) (addr string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "INFO {\"server_id\":\"old\",\"version\":%q,\"max_payload\":1048576,\"headers\":true}\r\n", version)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if strings.Contains(string(buf[:n]), "PING") {
				_, _ = fmt.Fprint(conn, "PONG\r\n")
			}
		}
	}()
	return l.Addr().String()
}

func junkFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(file, []byte("this is "+secretWord), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestPermissions_AreEnough gives each process what docs/guides/postgresql-and-nats.md lists for it, and no more: a
// relay publishes and looks at the ends of logs, a worker reads, and may not publish.
func TestPermissions_AreEnough(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../../docs/guides/nats-permissions.conf")
	if err != nil {
		t.Fatal(err)
	}
	srv := natstest.New(t, strings.NewReplacer("OUTBOX_PASSWORD", secretWord, "WORKER_PASSWORD", secretWord).Replace(string(guide)))
	url := func(user string) string { return "nats://" + user + ":" + secretWord + "@" + srv.Addr() }
	relay := open(t, natsbroker.Config{URL: url("outbox"), Sync: natsbroker.SyncLazy, Replicas: 1})
	reader := open(t, natsbroker.Config{URL: url("worker"), Sync: natsbroker.SyncLazy, AckTimeout: time.Second})
	for _, logs := range [][]broker.Start{
		{{TopicLane: brokertest.Log(0)}},
		{{TopicLane: brokertest.Log(0)}, {TopicLane: brokertest.Log(1)}},
	} {
		sub, err := reader.Subscribe(t.Context(), logs)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		tail, err := relay.Tail(t.Context(), brokertest.Log(0))
		if err != nil {
			t.Fatal(err)
		}
		publish(t, relay, tail.Sequence+1, tail.Sequence+30)
		brokertest.CollectUntil(t, sub, brokertest.Log(0), tail.Sequence+30)
	}
	if tail, err := relay.At(t.Context(), brokertest.Log(0), 7); err != nil || tail.Sequence != 7 {
		t.Errorf("looked at %+v, %v", tail, err)
	}
	if _, err := reader.Publish(t.Context(), brokertest.Messages(brokertest.Log(0), 61, 61), nil); err == nil {
		t.Error("a worker may publish")
	}
}
