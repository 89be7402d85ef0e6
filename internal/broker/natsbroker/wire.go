package natsbroker

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
)

// The wire is CloudEvents 1.0 in binary mode: attributes are headers with the prefix "ce-", percent-encoded, and the
// payload is the body.
const (
	attrPrefix  = "ce-"
	contentType = "content-type"
	// originHeader names the database that a record comes from.
	originHeader = "mainstay-origin"
	jsonContent  = "application/json"
	// dataContentType is the attribute that binary mode has as content-type; JSON when absent.
	dataContentType = "datacontenttype"
)

// attribute is one field of the envelope that is text.
type attribute struct {
	key      string
	required bool
	field    func(*mainstay.Message) *string
}

// attributes tells the text fields of the envelope.
func attributes() [10]attribute {
	return [...]attribute{
		{"ce-id", true, func(m *mainstay.Message) *string { return &m.ID }},
		{"ce-source", false, func(m *mainstay.Message) *string { return &m.Source }},
		{"ce-type", true, func(m *mainstay.Message) *string { return &m.Type }},
		{"ce-subject", false, func(m *mainstay.Message) *string { return &m.AggregateID }},
		{"ce-aggregatetype", false, func(m *mainstay.Message) *string { return &m.AggregateType }},
		{"ce-partitionkey", false, func(m *mainstay.Message) *string { return &m.Key }},
		{"ce-correlationid", false, func(m *mainstay.Message) *string { return &m.CorrelationID }},
		{"ce-causationid", false, func(m *mainstay.Message) *string { return &m.CausationID }},
		{"ce-traceparent", false, func(m *mainstay.Message) *string { return &m.Traceparent }},
		{"ce-dataschema", false, func(m *mainstay.Message) *string { return &m.DataSchema }},
	}
}

// encode makes the record of m for the subject. Its errors are final: no broker would take m.
func encode(subject string, m *mainstay.Message) (*nats.Msg, error) {
	const own = 20 // room for what the envelope and publishing add, so that nothing is allocated twice
	h := make(nats.Header, own+len(m.Headers))
	values := make([]string, 0, own+len(m.Headers))
	set := func(key, value string) {
		values = append(values, value)
		h[key] = values[len(values)-1 : len(values) : len(values)]
	}
	set("ce-specversion", "1.0")
	set("ce-time", m.CreatedAt.UTC().Format(time.RFC3339Nano))
	set("ce-sequence", strconv.FormatInt(m.Sequence, 10))
	set("ce-incarnation", strconv.FormatInt(m.Incarnation, 10))
	if m.Since > 0 {
		set("ce-since", strconv.FormatInt(m.Since, 10))
	}
	for _, a := range attributes() {
		if v := *a.field(m); v != "" {
			set(a.key, escape(v))
		}
	}
	content := jsonContent
	for name, value := range m.Headers {
		switch {
		case name == dataContentType:
			content = escape(value)
		case !extensionName(name) || outbox.ReservedHeader(name):
			return nil, fmt.Errorf("a header may not be named %q", name)
		default:
			set(attrPrefix+name, escape(value))
		}
	}
	set(contentType, content)
	return &nats.Msg{Subject: subject, Header: h, Data: m.Payload}, nil
}

// decode reads a record of a log. It keeps data, which must not change any more.
func decode(log mainstay.TopicLane, h nats.Header, data []byte) (*mainstay.Message, error) {
	m := &mainstay.Message{Topic: log.Topic, Lane: log.Lane, Payload: data}
	if v := first(h, "ce-specversion"); v != "1.0" {
		return nil, fmt.Errorf("specversion is %q, not 1.0", v)
	}
	for _, a := range attributes() {
		v, err := unescape(first(h, a.key))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", a.key, err)
		}
		if v == "" && a.required {
			return nil, fmt.Errorf("%s is missing", a.key)
		}
		*a.field(m) = v
	}
	if err := decodePlace(m, h); err != nil {
		return nil, err
	}
	return m, decodeHeaders(m, h)
}

func decodePlace(m *mainstay.Message, h nats.Header) (err error) {
	if m.Sequence, err = strconv.ParseInt(first(h, "ce-sequence"), 10, 64); err != nil || m.Sequence < 1 {
		return fmt.Errorf("sequence %q is not a positive number", first(h, "ce-sequence"))
	}
	if m.Incarnation, err = strconv.ParseInt(first(h, "ce-incarnation"), 10, 64); err != nil || m.Incarnation < 0 {
		return fmt.Errorf("incarnation %q is not a number", first(h, "ce-incarnation"))
	}
	if since := first(h, "ce-since"); since != "" {
		if m.Since, err = strconv.ParseInt(since, 10, 64); err != nil || m.Since < 1 {
			return fmt.Errorf("since %q is not a positive number", since)
		}
	}
	if m.CreatedAt, err = time.Parse(time.RFC3339Nano, first(h, "ce-time")); err != nil {
		return fmt.Errorf("reading the time: %w", err)
	}
	m.CreatedAt = m.CreatedAt.UTC()
	return nil
}

func decodeHeaders(m *mainstay.Message, h nats.Header) error {
	for key, values := range h {
		name, ok := strings.CutPrefix(key, attrPrefix)
		if key == contentType && len(values) > 0 && values[0] != jsonContent {
			name, ok = dataContentType, true
		}
		if !ok || len(values) == 0 || outbox.ReservedHeader(name) {
			continue
		}
		v, err := unescape(values[0])
		if err != nil {
			return fmt.Errorf("reading header %q: %w", name, err)
		}
		if !extensionName(name) {
			return fmt.Errorf("a header may not be named %q", name)
		}
		if m.Headers == nil {
			m.Headers = map[string]string{}
		}
		m.Headers[name] = v
	}
	return nil
}

func first(h nats.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func extensionName(name string) bool {
	if name == "" || len(name) > 20 {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}

const hexDigits = "0123456789ABCDEF"

// plain says whether a byte stands for itself in a header: printable ASCII but space, quote and percent.
func plain(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }

// escape percent-encodes what must not stand in a header.
func escape(s string) string {
	special := 0
	for i := range len(s) {
		if !plain(s[i]) {
			special++
		}
	}
	if special == 0 {
		return s
	}
	out := make([]byte, 0, len(s)+2*special)
	for i := range len(s) {
		if c := s[i]; plain(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return string(out)
}

var errPercent = errors.New("a percent sign is not followed by two hexadecimal digits")

// unescape reverses escape; unescaped characters of any kind stand for themselves.
func unescape(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errPercent
		}
		v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", errPercent
		}
		out = append(out, byte(v))
		i += 2
	}
	return string(out), nil
}

// headerSize is how many bytes the headers take on the wire.
func headerSize(h nats.Header) int {
	size := len("NATS/1.0\r\n") + len("\r\n")
	for k, vs := range h {
		for _, v := range vs {
			size += len(k) + len(": ") + len(v) + len("\r\n")
		}
	}
	return size
}
