package outbox_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
)

func TestPrepare_RefusesWhatABrokerWould(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(m *mainstay.Message){
		"the id":                 func(m *mainstay.Message) { m.ID = "1" },
		`the topic "a.b"`:        func(m *mainstay.Message) { m.Topic = "a.b" },
		`the topic "in" is kept`: func(m *mainstay.Message) { m.Topic = "in" },
		"the type":               func(m *mainstay.Message) { m.Type = "" },
		"the key":                func(m *mainstay.Message) { m.Key = strings.Repeat("k", outbox.MaxKey+1) },
		"the payload":            func(m *mainstay.Message) { m.Payload = make([]byte, outbox.MaxPayload+1) },
		`the header "Capital"`:   func(m *mainstay.Message) { m.Headers = map[string]string{"Capital": ""} },
		"with a value of clean":  func(m *mainstay.Message) { m.Headers = map[string]string{"note": "a\nb"} },
		"the headers have": func(m *mainstay.Message) {
			m.Headers = map[string]string{"note": strings.Repeat("n", outbox.MaxHeaders)}
		},
		"the attribute":           func(m *mainstay.Message) { m.Source = "a\x00" },
		`the header "sequence" h`: func(m *mainstay.Message) { m.Headers = map[string]string{"sequence": "1"} },
	} {
		m := &mainstay.Message{Topic: "orders", Key: "k", Type: "order.placed"}
		change(m)
		var invalid *outbox.InvalidError
		err := outbox.New(mainstay.SQLite, 4).Prepare([]*mainstay.Message{m})
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestPrepare_TakesTheNamesThatAreFree(t *testing.T) {
	t.Parallel()
	m := &mainstay.Message{Topic: "inbound", Key: "k", Type: "order.placed", Headers: map[string]string{"datacontenttype": "text/plain"}}
	for _, name := range []string{
		mainstay.HeaderSaga, mainstay.HeaderStep, mainstay.HeaderOp, mainstay.HeaderReplyTo, mainstay.HeaderOutcome, mainstay.HeaderCode,
	} {
		m.Headers[name] = "v"
	}
	if err := outbox.New(mainstay.SQLite, 4).Prepare([]*mainstay.Message{m}); err != nil {
		t.Fatal(err)
	}
}
