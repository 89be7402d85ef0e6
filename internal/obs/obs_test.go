package obs_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/saga"
)

// With -update the reference page is written instead of compared.
var update = flag.Bool("update", false, "write the reference page")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the features ask for is what there is.
var (
	_ ingest.Hooks       = (*obs.Ingest)(nil)
	_ sequencer.Observer = (*obs.Sequencer)(nil)
	_ relay.Hooks        = (*obs.Relay)(nil)
	_ lane.Hooks         = (*obs.Lanes)(nil)
	_ orchestrator.Hooks = (*obs.Sagas)(nil)
	_ retention.Hooks    = (*obs.Retention)(nil)
	_ app.Observer       = (*obs.HTTPServer)(nil)
)

// reader answers with what a test says.
type reader struct {
	backlog obs.Backlog
	err     error
	calls   int
}

func (r *reader) Backlog(context.Context) (obs.Backlog, error) { r.calls++; return r.backlog, r.err }

func someBacklog() obs.Backlog {
	return obs.Backlog{
		Unnumbered: 250 * time.Millisecond,
		Unhandled:  map[obs.ConsumerTopic]obs.Depth{{Consumer: "stock", Topic: "inventory"}: {Count: 3, Oldest: 1500 * time.Millisecond}},
		Parked:     map[string]obs.Depth{"stock": {Count: 2, Oldest: time.Minute}},
		Dead:       map[string]obs.Depth{"stock": {}},
		Sagas:      map[obs.SagaStatus]obs.Depth{{Saga: "order", Status: "running"}: {Count: 9, Oldest: time.Second}},
		Unheld:     map[string]int{"stock": 4},
	}
}

// exercised is a registry on which everything has happened once.
func exercised(t *testing.T) *prometheus.Registry {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	obs.Register(reg, "v1", "abc", "go1")
	obs.RegisterReady(reg, func() bool { return true })
	i := obs.NewIngest(reg)
	i.Answered(false)
	i.Answered(true)
	i.Answered(true)
	i.Refused("overloaded")
	i.Committed(7, 3*time.Millisecond, nil)
	i.Committed(1, time.Second, errors.New("disk full"))
	i.InFlight(5)
	s := obs.NewSequencer(reg)
	s.Leading(false)
	s.Leading(true)
	s.Numbered(11, time.Millisecond)
	r := obs.NewRelay(reg)
	r.Published(12)
	r.Refilled(2)
	r.Round(time.Millisecond)
	r.OldestUnpublished(2500 * time.Millisecond)
	r.Lanes(4)
	l := obs.NewLanes(reg)
	l.Handled("stock", "done", 8)
	l.Batch("stock", 8, time.Millisecond)
	l.Called("pay", "unknown", time.Second)
	l.Calling("pay", 2)
	l.Calling("pay", 1)
	l.Gap("stock", 3)
	h := obs.NewHTTP(reg).Server("ingest")
	h.Answered("GET /v1/orders/{id}", 404, time.Second)
	h.Answered("", 503, time.Millisecond)
	o := obs.NewSagas(reg)
	o.Started("order", 6)
	o.Changed("order", saga.NeedsOperator)
	o.Overdue("order")
	c := obs.NewRetention(reg)
	c.Removed("outbox", 9)
	c.Round(time.Second, nil)
	c.Round(time.Second, errors.New("locked"))
	c.Held([]retention.Hold{{Reason: "relay", Name: "gone", For: time.Hour}})
	c.Held([]retention.Hold{{Reason: "consumer", Name: "dead", For: time.Hour}})
	c.Oldest("outbox", 48*time.Hour)
	c.Room(-1)
	obs.RegisterBacklog(reg, &reader{backlog: someBacklog()}, slog.New(slog.DiscardHandler))
	return reg
}

func scrape(t *testing.T, reg *prometheus.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	obs.Handler(reg).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetrics_TellWhatHappened(t *testing.T) {
	t.Parallel()
	got := scrape(t, exercised(t))
	for _, want := range []string{
		`mainstay_build_info{go="go1",revision="abc",version="v1"} 1`,
		`mainstay_retention_removed_total{table="outbox"} 9`,
		`mainstay_lanes_unheld{consumer="stock"} 4`,
		`mainstay_retention_rounds_total{outcome="failed"} 1`,
		`mainstay_retention_held_seconds{by="consumer",name="dead"} 3600`,
		`mainstay_retention_oldest_seconds{table="outbox"} 172800`,
		`mainstay_outbox_room_seconds +Inf`,
		`mainstay_ingest_accepted_total 1`,
		`mainstay_ingest_replayed_total 2`,
		`mainstay_ingest_refused_total{reason="overloaded"} 1`,
		`mainstay_ingest_in_flight 5`,
		`mainstay_ingest_group_requests_sum 8`,
		`mainstay_ingest_commit_seconds_count{outcome="committed"} 1`,
		`mainstay_ingest_commit_seconds_sum{outcome="failed"} 1`,
		`mainstay_sequencer_numbered_total 11`,
		`mainstay_sequencer_leading 1`,
		`mainstay_outbox_oldest_unpublished_seconds 2.5`,
		`mainstay_relay_published_total 12`,
		`mainstay_relay_refilled_total 2`,
		`mainstay_relay_lanes 4`,
		`mainstay_handled_total{consumer="stock",outcome="done"} 8`,
		`mainstay_batch_messages_sum{consumer="stock"} 8`,
		`mainstay_calls_total{consumer="pay",outcome="unknown"} 1`,
		`mainstay_call_seconds_sum{consumer="pay"} 1`,
		`mainstay_calls_in_flight{consumer="pay"} 1`,
		`mainstay_http_requests_total{route="GET /v1/orders/{id}",server="ingest",status="4xx"} 1`,
		`mainstay_http_requests_total{route="none",server="ingest",status="5xx"} 1`,
		`mainstay_http_request_seconds_sum{route="GET /v1/orders/{id}",server="ingest"} 1`,
		`mainstay_outbox_oldest_unnumbered_seconds 0.25`,
		`mainstay_gap_messages_total{consumer="stock"} 3`,
		`mainstay_saga_started_total{saga="order"} 6`,
		`mainstay_saga_reached_total{saga="order",status="needs_operator"} 1`,
		`mainstay_saga_overdue_total{saga="order"} 1`,
		`mainstay_backlog_readable 1`,
		`mainstay_consumer_oldest_unhandled_seconds{consumer="stock",topic="inventory"} 1.5`,
		`mainstay_consumer_lag_messages{consumer="stock",topic="inventory"} 3`,
		`mainstay_parked_oldest_seconds{consumer="stock"} 60`,
		`mainstay_parked_messages{consumer="stock"} 2`,
		`mainstay_dead_letters_open{consumer="stock"} 0`,
		`mainstay_saga_oldest_seconds{saga="order",status="running"} 1`,
		`mainstay_saga_open{saga="order",status="running"} 9`,
		`go_goroutines `,
		`process_start_time_seconds `,
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestBacklog_IsReadSeldomAndMayFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		reg, r := prometheus.NewPedanticRegistry(), &reader{backlog: someBacklog()}
		obs.RegisterBacklog(reg, r, slog.New(slog.NewTextHandler(&log, nil)))
		names := func() (list []string) {
			families, err := reg.Gather()
			if err != nil {
				t.Error(err)
			}
			for _, f := range families {
				list = append(list, f.GetName())
			}
			return list
		}
		if got := names(); len(got) != 11 || r.calls != 1 {
			t.Errorf("%d reads gave %v", r.calls, got)
		}
		r.err = errors.New("no connection")
		if got := names(); len(got) != 11 || r.calls != 1 {
			t.Errorf("within five seconds: %d reads gave %v", r.calls, got)
		}
		for range 2 {
			time.Sleep(6 * time.Second) // of the bubble's clock
			if got := names(); !slices.Equal(got, []string{"mainstay_backlog_readable"}) {
				t.Errorf("unreadable, but there is %v", got)
			}
		}
		if got := strings.Count(log.String(), "no connection"); got != 1 {
			t.Errorf("the failure was logged %d times", got)
		}
	})
}

func TestBacklog_FallsToZeroWithTheLastSaga(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg, r := prometheus.NewPedanticRegistry(), &reader{backlog: someBacklog()}
		obs.RegisterBacklog(reg, r, slog.New(slog.DiscardHandler))
		for _, want := range []float64{9, 0, 0} {
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			got := -1.0
			for _, f := range families {
				if f.GetName() == "mainstay_saga_open" {
					got = f.GetMetric()[0].GetGauge().GetValue()
				}
			}
			if got != want {
				t.Fatalf("mainstay_saga_open is %v, want %v", got, want)
			}
			r.backlog.Sagas = nil
			time.Sleep(6 * time.Second) // of the bubble's clock
		}
	})
}

func TestReference_IsCurrent(t *testing.T) {
	t.Parallel()
	families, err := exercised(t).Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(`# Metrics

<!-- Generated from internal/obs: go test ./internal/obs -run Reference -update -->

Served on ` + "`/metrics`" + ` of the operator's address. Beside these there are those of the Go runtime (` + "`go_*`" + `) and of the
operating system's process (` + "`process_*`" + `). Labels are bounded: none holds an id. Alert on ages before depths.

| metric | type | labels | meaning |
|---|---|---|---|
`)
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "mainstay_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	const path = "../../docs/reference/metrics.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != b.String() {
		t.Errorf("%s is not what the code says (%v); run: go test ./internal/obs -run Reference -update", path, err)
	}
}

func TestNewLogger_ChoosesFormAndLevel(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		level, format string
		terminal      bool
		json, debug   bool
	}{
		"auto on a terminal": {"info", "auto", true, false, false},
		"auto in a pipe":     {"debug", "auto", false, true, true},
		"text in a pipe":     {"debug", "text", false, false, true},
		"JSON on a terminal": {"info", "json", true, true, false},
		"level unknown":      {"loud", "text", true, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			log := obs.NewLogger(&out, tt.level, tt.format, tt.terminal)
			log.DebugContext(t.Context(), "quiet")
			log.InfoContext(t.Context(), "loud", obs.OrderID, "o-1", obs.Err(errors.New("disk full")))
			if got := strings.Contains(out.String(), "quiet"); got != tt.debug {
				t.Errorf("debug lines written: %v", got)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			last := lines[len(lines)-1]
			var object map[string]any
			if isJSON := json.Unmarshal([]byte(last), &object) == nil; isJSON != tt.json {
				t.Errorf("line is %s", last)
			}
			if tt.json && (object["order_id"] != "o-1" || object["err"] != "disk full") {
				t.Errorf("attributes are %v", object)
			}
		})
	}
}
