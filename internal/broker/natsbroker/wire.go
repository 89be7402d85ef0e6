package natsbroker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mainstay-io/mainstay"
)

// The wire is CloudEvents 1.0 in binary mode: attributes are headers with the prefix "ce-", percent-encoded, and the
// payload is the body.
const (
	attrPrefix  = "ce-"
	contentType = "content-type"
	jsonContent = "application/json"
	// dataContentType is the attribute that binary mode has as content-type; JSON when absent.
	dataContentType = "datacontenttype"
)

// attribute is one optional or required field of the envelope that is text.
type attribute struct {
	name     string
	required bool
	field    func(*mainstay.Message) *string
}

// attributes tells the text fields of the envelope. It is a function because a slice could be changed.
func attributes() []attribute {
	return []attribute{
		{"id", true, func(m *mainstay.Message) *string { return &m.ID }},
		{"source", false, func(m *mainstay.Message) *string { return &m.Source }},
		{"type", true, func(m *mainstay.Message) *string { return &m.Type }},
		{"subject", false, func(m *mainstay.Message) *string { return &m.AggregateID }},
		{"aggregatetype", false, func(m *mainstay.Message) *string { return &m.AggregateType }},
		{"partitionkey", false, func(m *mainstay.Message) *string { return &m.Key }},
		{"correlationid", false, func(m *mainstay.Message) *string { return &m.CorrelationID }},
		{"causationid", false, func(m *mainstay.Message) *string { return &m.CausationID }},
		{"traceparent", false, func(m *mainstay.Message) *string { return &m.Traceparent }},
		{"dataschema", false, func(m *mainstay.Message) *string { return &m.DataSchema }},
	}
}

// reserved says whether a header's name is taken by the envelope.
func reserved(name string) bool {
	switch name {
	case "specversion", "time", "sequence", "incarnation":
		return true
	}
	return slices.ContainsFunc(attributes(), func(a attribute) bool { return a.name == name })
}

// encode makes the record of m for the subject. Its errors are final: no broker would take m.
func encode(subject string, m *mainstay.Message) (*nats.Msg, error) {
	h := nats.Header{
		"ce-specversion": {"1.0"},
		"ce-time":        {m.CreatedAt.UTC().Format(time.RFC3339Nano)},
		"ce-sequence":    {strconv.FormatInt(m.Sequence, 10)},
		"ce-incarnation": {strconv.FormatInt(m.Incarnation, 10)},
		contentType:      {jsonContent},
	}
	for _, a := range attributes() {
		if v := *a.field(m); v != "" {
			h[attrPrefix+a.name] = []string{escape(v)}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		switch {
		case name == dataContentType:
			h[contentType] = []string{escape(m.Headers[name])}
		case !extensionName(name) || reserved(name):
			return nil, fmt.Errorf("a header may not be named %q", name)
		default:
			h[attrPrefix+name] = []string{escape(m.Headers[name])}
		}
	}
	return &nats.Msg{Subject: subject, Header: h, Data: m.Payload}, nil
}

// decode reads a record of a log. It keeps data, which must not change any more.
func decode(log mainstay.TopicLane, h nats.Header, data []byte) (*mainstay.Message, error) {
	m := &mainstay.Message{Topic: log.Topic, Lane: log.Lane, Payload: data}
	if v := first(h, "ce-specversion"); v != "1.0" {
		return nil, fmt.Errorf("specversion is %q, not 1.0", v)
	}
	for _, a := range attributes() {
		v, err := unescape(first(h, attrPrefix+a.name))
		if err != nil {
			return nil, fmt.Errorf("reading attribute %s: %w", a.name, err)
		}
		if v == "" && a.required {
			return nil, fmt.Errorf("attribute %s is missing", a.name)
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
		if !ok || len(values) == 0 || reserved(name) {
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
