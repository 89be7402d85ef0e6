package natsbroker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

// currentStream gives the stream's handle; a stream that is missing is created.
func (b *Broker) currentStream(ctx context.Context) (jetstream.Stream, error) {
	b.mu.Lock()
	st := b.stream
	b.mu.Unlock()
	if st != nil {
		return st, nil
	}
	st, err := b.js.Stream(ctx, b.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		st, err = b.js.CreateStream(ctx, b.streamConfig())
	}
	if err != nil {
		return nil, fmt.Errorf("opening stream %s: %w", b.cfg.Stream, err)
	}
	weak, wrong := b.check(st.CachedInfo().Config)
	if wrong != nil {
		return nil, wrong
	}
	b.noteLanes(ctx, st.CachedInfo().Config)
	for _, setting := range weak {
		b.log.WarnContext(ctx, "a setting of the stream weakens it", slog.String("stream", b.cfg.Stream), slog.String("setting", setting))
	}
	b.mu.Lock()
	b.stream, b.keep, b.maxMessage = st, st.CachedInfo().Config.MaxAge, int64(st.CachedInfo().Config.MaxMsgSize)
	b.lookups++
	b.mu.Unlock()
	return st, nil
}

// lanesKey is where the stream's metadata says how many lanes the databases have that publish to it.
const lanesKey = "mainstay-lanes"

// noteLanes completes a stream that was made without. Where that is not allowed, nobody tells databases apart.
func (b *Broker) noteLanes(ctx context.Context, cfg jetstream.StreamConfig) {
	if b.cfg.Lanes == 0 || cfg.Metadata[lanesKey] != "" {
		return
	}
	metadata := map[string]string{lanesKey: strconv.Itoa(b.cfg.Lanes)}
	maps.Copy(metadata, cfg.Metadata)
	cfg.Metadata = metadata
	if _, err := b.js.UpdateStream(ctx, cfg); err != nil {
		b.log.WarnContext(ctx, "the stream does not say how many lanes its databases have", slog.String("stream", b.cfg.Stream), slog.Any("err", err))
	}
}

// lanesOf is what the stream says, if it does.
func (b *Broker) lanesOf(cfg jetstream.StreamConfig) string {
	return cmp.Or(cfg.Metadata[lanesKey], strconv.Itoa(b.cfg.Lanes))
}

// freshStream gives a handle of its own with the stream's state of now.
func (b *Broker) freshStream(ctx context.Context) (jetstream.Stream, error) {
	st, err := b.js.Stream(ctx, b.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		b.forgetStream()
		if _, err = b.currentStream(ctx); err == nil {
			st, err = b.js.Stream(ctx, b.cfg.Stream)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("asking NATS about stream %s: %w", b.cfg.Stream, err)
	}
	b.mu.Lock()
	b.maxMessage = int64(st.CachedInfo().Config.MaxMsgSize)
	b.mu.Unlock()
	return st, nil
}

// forgetStream makes the next call look the stream up anew.
func (b *Broker) forgetStream() {
	b.mu.Lock()
	b.stream = nil
	b.mu.Unlock()
}

func (b *Broker) streamConfig() jetstream.StreamConfig {
	var metadata map[string]string
	if b.cfg.Lanes > 0 {
		metadata = map[string]string{lanesKey: strconv.Itoa(b.cfg.Lanes)}
	}
	return jetstream.StreamConfig{
		Metadata: metadata,
		Name:     b.cfg.Stream, Description: "Logs of the backbone; only relays publish here.",
		Subjects: []string{b.subjects()}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
		Discard: jetstream.DiscardNew, MaxAge: b.cfg.MaxAge, Replicas: b.cfg.Replicas,
		AllowAtomicPublish: true, AllowDirect: b.cfg.Replicas == 1, // a replica that lags must not answer
	}
}

func (b *Broker) subjects() string { return b.cfg.Prefix + ".*.*" }

// Exists says whether the server has the stream that cfg names. It makes none.
func Exists(ctx context.Context, cfg Config) (bool, error) {
	cfg = withDefaults(cfg)
	nc, err := connect(cfg, &denials{})
	if err != nil {
		return false, fmt.Errorf("connecting to NATS: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return false, fmt.Errorf("opening JetStream: %w", err)
	}
	_, err = js.Stream(ctx, cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking NATS about stream %s: %w", cfg.Stream, err)
	}
	return true, nil
}

// Drop deletes the stream with all that is in it: for whoever made one of its own and is done with it. Nothing may be
// published or read any more.
func (b *Broker) Drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.AckTimeout)
	defer cancel()
	if err := b.js.DeleteStream(ctx, b.cfg.Stream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("deleting stream %s: %w", b.cfg.Stream, err)
	}
	return nil
}
