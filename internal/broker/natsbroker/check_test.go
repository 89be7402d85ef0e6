package natsbroker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
	"github.com/mainstay-io/mainstay/internal/testkit/natstest"
)

// goodStream is a stream that is taken without a word.
func goodStream(name string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: strings.ToUpper(name), Subjects: []string{name + ".*.*"}, Discard: jetstream.DiscardNew, MaxAge: 24 * time.Hour,
		AllowAtomicPublish: true, AllowDirect: true, DenyDelete: true, DenyPurge: true, MaxBytes: 1 << 20, MaxMsgs: 1 << 30,
		Compression: jetstream.S2Compression,
	}
}

// TestOpen_JudgesEachSetting makes one setting of a good stream another one: what breaks the promise is refused by the
// server's name of the setting, and what weakens it is logged.
func TestOpen_JudgesEachSetting(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	js := jetStream(t, srv)
	for _, name := range []string{"source", "mirrored"} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		set              func(*jetstream.StreamConfig)
		refused, weakens string
	}{
		"good":                {set: func(*jetstream.StreamConfig) {}},
		"retention interest":  {func(s *jetstream.StreamConfig) { s.Retention = jetstream.InterestPolicy }, "retention", ""},
		"retention workqueue": {func(s *jetstream.StreamConfig) { s.Retention = jetstream.WorkQueuePolicy }, "retention", ""},
		"storage": {func(s *jetstream.StreamConfig) {
			s.Storage = jetstream.MemoryStorage
			s.Compression = jetstream.NoCompression
		}, "storage", ""},
		"discard":          {func(s *jetstream.StreamConfig) { s.Discard = jetstream.DiscardOld }, "discard", ""},
		"per-subject":      {func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject = 9 }, "max_msgs_per_subject", ""},
		"new-per-subject":  {func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject = 9; s.DiscardNewPerSubject = true }, "max_msgs_per_subject", ""},
		"atomic":           {func(s *jetstream.StreamConfig) { s.AllowAtomicPublish = false }, "allow_atomic", ""},
		"subjects missing": {func(s *jetstream.StreamConfig) { s.Subjects = []string{s.Name + "-other"} }, "subjects", ""},
		"subjects foreign": {func(s *jetstream.StreamConfig) { s.Subjects = append(s.Subjects, s.Name+"-other") }, "subjects", ""},
		"subjects wider":   {func(s *jetstream.StreamConfig) { s.Subjects = []string{strings.ToLower(s.Name) + ".>"} }, "subjects", ""},
		"mirror": {func(s *jetstream.StreamConfig) {
			s.Mirror, s.Subjects, s.AllowAtomicPublish = &jetstream.StreamSource{Name: "mirrored"}, nil, false
		}, "mirror", ""},
		"sources": {func(s *jetstream.StreamConfig) { s.Sources = []*jetstream.StreamSource{{Name: "source"}} }, "sources", ""},
		"transform": {func(s *jetstream.StreamConfig) {
			s.SubjectTransform = &jetstream.SubjectTransformConfig{Source: s.Subjects[0], Destination: "x.$1.$2"}
		}, "subject_transform", ""},
		"no-ack": {func(s *jetstream.StreamConfig) { s.NoAck, s.AllowAtomicPublish = true, false }, "no_ack", ""},
		"counter": {func(s *jetstream.StreamConfig) {
			s.AllowMsgCounter, s.Discard, s.AllowAtomicPublish = true, jetstream.DiscardOld, false
		}, "allow_msg_counter", ""},
		"age without a limit": {func(s *jetstream.StreamConfig) { s.MaxAge = 0 }, "max_age", ""},
		"age too long":        {func(s *jetstream.StreamConfig) { s.MaxAge = 7 * 24 * time.Hour }, "max_age", ""},
		"age far too short":   {func(s *jetstream.StreamConfig) { s.MaxAge = 59 * time.Second; s.Duplicates = time.Second }, "max_age", ""},
		"age short":           {func(s *jetstream.StreamConfig) { s.MaxAge = 59 * time.Minute }, "", "max_age"},
		"consumers gone soon": {func(s *jetstream.StreamConfig) { s.ConsumerLimits.InactiveThreshold = time.Second }, "consumer_limits", ""},
		"consumers few":       {func(s *jetstream.StreamConfig) { s.MaxConsumers = 2 }, "", "max_consumers"},
		"message size":        {func(s *jetstream.StreamConfig) { s.MaxMsgSize = 100 << 10 }, "", "max_msg_size"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := fmt.Sprintf("s-%x", name) // no setting's name is in it
			cfg := goodStream(prefix)
			c.set(&cfg)
			st, err := js.CreateStream(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			awaitSources(t, st)
			wantJudged(t, natsbroker.Config{InProcess: srv, Prefix: prefix, Outbox: 7 * 24 * time.Hour}, c.refused, c.weakens)
		})
	}
}

// TestOpen_ComparesLanes: who says no number is not refused for another one's.
func TestOpen_ComparesLanes(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	for _, c := range []struct {
		lanes   int
		refused bool
	}{{4, false}, {4, false}, {0, false}, {8, true}} {
		b, err := natsbroker.Open(t.Context(), natsbroker.Config{InProcess: srv, Lanes: c.lanes})
		var settings *natsbroker.SettingsError
		if refused := errors.As(err, &settings) && settings.Lanes; refused != c.refused || err != nil && !refused {
			t.Errorf("with %d lanes: %v", c.lanes, err)
		}
		if err == nil {
			_ = b.Close()
		}
	}
}

// awaitSources waits until a stream has heard of those that it copies: a server that is stopped before leaves a goroutine
// behind for half a minute, which TestMain finds.
func awaitSources(t *testing.T, st jetstream.Stream) {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		info, err := st.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sources, silent := len(info.Config.Sources), func(s *jetstream.StreamSourceInfo) bool { return s == nil || s.Active < 0 }
		if len(info.Sources) == sources && !slices.ContainsFunc(info.Sources, silent) && (info.Config.Mirror == nil || !silent(info.Mirror)) {
			return
		}
		select {
		case <-again.C:
		case <-limit.C:
			t.Fatal("it has not heard of what it copies for a minute")
		}
	}
}

// wantJudged opens the broker, and wants these settings refused and warned about, by name.
func wantJudged(t *testing.T, cfg natsbroker.Config, refused, weakens string) {
	t.Helper()
	var logged bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	b, err := natsbroker.Open(t.Context(), cfg)
	if err == nil {
		err = b.Ready(t.Context())
		_ = b.Close()
	}
	var settings *natsbroker.SettingsError
	switch {
	case refused != "":
		if !errors.As(err, &settings) || !strings.Contains(settings.Error(), refused) {
			t.Fatalf("got %v, want %s refused", err, refused)
		}
	case err != nil:
		t.Fatalf("it is refused: %v", err)
	case weakens == "" && logged.Len() > 0:
		t.Fatalf("it is warned about: %s", &logged)
	case weakens != "" && !strings.Contains(logged.String(), `setting="`+weakens):
		t.Fatalf("%s is not warned about: %s", weakens, &logged)
	}
}

// TestOpen_WarnsAboutReplicas: what one server would do is weak on a cluster, and so are fewer replicas than are asked
// for, and a replica that may answer before it has followed.
func TestOpen_WarnsAboutReplicas(t *testing.T) {
	t.Parallel()
	url := natstest.URLs(natstest.NewCluster(t, 3))
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		replicas, asked int
		direct          bool
		warns           []string
	}{
		"one":                      {1, 0, true, []string{"replicas is 1 on a cluster"}},
		"one, and three are asked": {1, 3, false, []string{"replicas is 1, and nats_replicas asks for 3", "replicas is 1 on a cluster"}},
		"three":                    {3, 3, false, nil},
		"three that may answer":    {3, 3, true, []string{"allow_direct lets a replica that lags answer"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := strings.NewReplacer(" ", "-", ",", "").Replace(name)
			cfg := goodStream(prefix)
			cfg.Replicas, cfg.AllowDirect = c.replicas, c.direct
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for err := errors.New("not asked"); err != nil; { // a server that has no leader yet does not answer
				asked, cancel := context.WithTimeout(ctx, 2*time.Second)
				if _, err = js.CreateStream(asked, cfg); ctx.Err() != nil {
					t.Fatal(err)
				}
				cancel()
			}
			var logged bytes.Buffer
			b, err := natsbroker.Open(ctx, natsbroker.Config{
				URL: url, Prefix: prefix, Replicas: c.asked, Sync: natsbroker.SyncLazy, Logger: slog.New(slog.NewTextHandler(&logged, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close() // it was only opened
			if got := strings.Count(logged.String(), "setting="); got != len(c.warns) {
				t.Errorf("%d warnings, want %d: %s", got, len(c.warns), &logged)
			}
			for _, warning := range c.warns {
				if !strings.Contains(logged.String(), `setting="`+warning) {
					t.Errorf("no word of %q: %s", warning, &logged)
				}
			}
		})
	}
}

func TestOpen_NamesAllThatIsWrong(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	cfg := goodStream("mainstay")
	cfg.Discard, cfg.AllowAtomicPublish, cfg.MaxMsgsPerSubject = jetstream.DiscardOld, false, 1
	if _, err := jetStream(t, srv).CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	_, err := natsbroker.Open(t.Context(), natsbroker.Config{InProcess: srv})
	var settings *natsbroker.SettingsError
	if !errors.As(err, &settings) {
		t.Fatalf("got %v", err)
	}
	var names []string
	for _, s := range settings.Settings {
		name, _, _ := strings.Cut(s, " ")
		names = append(names, name)
	}
	if diff := cmp.Diff([]string{"allow_atomic", "discard", "max_msgs_per_subject"}, names); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

// TestReady_SeesASettingChange seals the stream, and drops old messages, while it is in use.
func TestReady_SeesASettingChange(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	js := jetStream(t, srv)
	b := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy})
	if b.Keep() != natsbroker.DefaultMaxAge {
		t.Errorf("the stream keeps messages for %v", b.Keep())
	}
	publish(t, b, 1, 1)
	st, err := js.Stream(t.Context(), "MAINSTAY")
	if err != nil {
		t.Fatal(err)
	}
	changed := st.CachedInfo().Config
	changed.Discard = jetstream.DiscardOld
	if _, err := js.UpdateStream(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if err := b.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "discard") {
		t.Errorf("ready with a stream that drops messages: %v", err)
	}
	changed.Sealed = true
	if _, err := js.UpdateStream(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if err := b.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("ready with a sealed stream: %v", err)
	}
}
