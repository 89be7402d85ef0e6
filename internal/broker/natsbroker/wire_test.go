package natsbroker

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
)

const goldenFile = "testdata/message.golden"

var update = flag.Bool("update", false, "write the golden files anew")

// encode makes a record of its own.
func encode(subject string, m *mainstay.Message) (*nats.Msg, error) {
	if err := checkHeaders(m); err != nil {
		return nil, err
	}
	var e encoder
	return e.record(subject, m), nil
}

func goldenMessage() *mainstay.Message {
	return &mainstay.Message{
		ID: "0190f5fe-7a3b-7c44-8e1a-2b7c5d9e0f11", Topic: "payment-commands", Key: "ключ 1", Type: "payment.authorise",
		Source: "/mainstay", AggregateType: "order", AggregateID: "o-1", CorrelationID: "o-1",
		CausationID: "0190f5fe-7a3b-7c44-8e1a-2b7c5d9e0f10", Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		DataSchema: "https://example.com/payment.authorise/v1", Headers: map[string]string{"sagaid": "s-1", "note": "50 % \"off\""},
		Payload: []byte(`{"amount":2500}`), CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC),
		Lane: 3, Incarnation: 2, Sequence: 42,
	}
}

// TestWire_Golden holds the wire: others read it. A difference is a change of a public format.
func TestWire_Golden(t *testing.T) {
	t.Parallel()
	msg, err := encode("mainstay.payment-commands.3", goldenMessage())
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	fmt.Fprintln(&got, msg.Subject)
	for _, k := range slices.Sorted(maps.Keys(msg.Header)) {
		fmt.Fprintf(&got, "%s: %s\n", k, msg.Header[k][0])
	}
	fmt.Fprintf(&got, "\n%s\n", msg.Data)
	if *update {
		if err := os.WriteFile(goldenFile, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func TestEncode_RefusesNamesOfTheEnvelope(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"id", "sequence", "time", "specversion", "partitionkey", "", "Upper", "a-b", "a b", "averyverylongnameof21c"} {
		m := goldenMessage()
		m.Headers = map[string]string{name: "x"}
		if _, err := encode("s", m); err == nil {
			t.Errorf("a header named %q was taken", name)
		}
	}
}

func TestDecode_RefusesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	cases := map[string]func(h nats.Header){
		"no headers":          func(h nats.Header) { clear(h) },
		"another version":     func(h nats.Header) { h["ce-specversion"] = []string{"0.3"} },
		"no id":               func(h nats.Header) { delete(h, "ce-id") },
		"no type":             func(h nats.Header) { delete(h, "ce-type") },
		"no sequence":         func(h nats.Header) { delete(h, "ce-sequence") },
		"sequence zero":       func(h nats.Header) { h["ce-sequence"] = []string{"0"} },
		"no incarnation":      func(h nats.Header) { delete(h, "ce-incarnation") },
		"no time":             func(h nats.Header) { h["ce-time"] = []string{"yesterday"} },
		"cut percent":         func(h nats.Header) { h["ce-source"] = []string{"/a%2"} },
		"percent without hex": func(h nats.Header) { h["ce-note"] = []string{"%zz"} },
		"name of an upper":    func(h nats.Header) { h["ce-Note"] = []string{"x"} },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			msg, err := encode("s", goldenMessage())
			if err != nil {
				t.Fatal(err)
			}
			spoil(msg.Header)
			if m, err := decode(mainstay.TopicLane{Topic: "t"}, msg.Header, msg.Data); err == nil {
				t.Fatalf("decoded as %+v", m)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("id-1", "a%20b", "7", "1", "2026-01-02T03:04:05.6789Z", "note", "x%25", "text/plain", []byte("{}"))
	f.Add("", "%", "-1", "", "", "", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, id, key, sequence, incarnation, created, name, value, content string, payload []byte) {
		h := nats.Header{
			"ce-specversion": {"1.0"}, "ce-id": {id}, "ce-type": {"t"}, "ce-partitionkey": {key}, "ce-sequence": {sequence},
			"ce-incarnation": {incarnation}, "ce-time": {created}, "ce-" + name: {value}, contentType: {content},
		}
		log := mainstay.TopicLane{Topic: "orders", Lane: 1}
		m, err := decode(log, h, payload)
		if err != nil {
			return
		}
		msg, err := encode("mainstay.orders.1", m)
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		again, err := decode(log, msg.Header, msg.Data)
		if err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		if diff := cmp.Diff(m, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

// A header with the name of an attribute that the record has anyway would replace it.
func TestEncode_ItsAttributesAreReserved(t *testing.T) {
	t.Parallel()
	m := &mainstay.Message{Topic: "orders", Sequence: 1, Incarnation: 1}
	for _, key := range attributes() {
		*field(m, key) = "v"
	}
	record, err := encode("subject", m)
	if err != nil {
		t.Fatal(err)
	}
	for key := range record.Header {
		if name, ok := strings.CutPrefix(key, attrPrefix); ok && !outbox.ReservedHeader(name) {
			t.Errorf("a header may be named %s", name)
		}
	}
}
