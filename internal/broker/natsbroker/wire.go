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

// attributes are the fields of the envelope that are text.
func attributes() [10]string {
	return [...]string{
		"ce-id", "ce-source", "ce-type", "ce-subject", "ce-aggregatetype", "ce-partitionkey", "ce-correlationid", "ce-causationid",
		"ce-traceparent", "ce-dataschema",
	}
}

// field is the field of an attribute; nil when the attribute is none of those that are text.
func field(m *mainstay.Message, attribute string) *string {
	switch attribute {
	case "ce-id":
		return &m.ID
	case "ce-source":
		return &m.Source
	case "ce-type":
		return &m.Type
	case "ce-subject":
		return &m.AggregateID
	case "ce-aggregatetype":
		return &m.AggregateType
	case "ce-partitionkey":
		return &m.Key
	case "ce-correlationid":
		return &m.CorrelationID
	case "ce-causationid":
		return &m.CausationID
	case "ce-traceparent":
		return &m.Traceparent
	case "ce-dataschema":
		return &m.DataSchema
	}
	return nil
}

// encoder makes records one after another in the same memory: each is good until the next one is made.
type encoder struct {
	msg    nats.Msg
	values []string
}

// set adds a header to the record that was made last.
func (e *encoder) set(key, value string) {
	e.values = append(e.values, value)
	n := len(e.values)
	e.msg.Header[key] = e.values[n-1 : n : n]
}

// record makes the record of m, whose headers must be good (see checkHeaders), for the subject.
func (e *encoder) record(subject string, m *mainstay.Message) *nats.Msg {
	if e.msg.Header == nil {
		e.msg.Header = nats.Header{}
	}
	clear(e.msg.Header)
	e.values = e.values[:0]
	e.msg.Subject, e.msg.Data = subject, m.Payload
	e.set("ce-specversion", "1.0")
	e.set("ce-time", m.CreatedAt.UTC().Format(time.RFC3339Nano))
	e.set("ce-sequence", strconv.FormatInt(m.Sequence, 10))
	e.set("ce-incarnation", strconv.FormatInt(m.Incarnation, 10))
	if m.Since > 0 {
		e.set("ce-since", strconv.FormatInt(m.Since, 10))
	}
	for _, key := range attributes() {
		if v := *field(m, key); v != "" {
			e.set(key, escape(v))
		}
	}
	content := jsonContent
	for name, value := range m.Headers {
		if name == dataContentType {
			content = escape(value)
			continue
		}
		e.set(attrPrefix+name, escape(value))
	}
	e.set(contentType, content)
	return &e.msg
}

// checkHeaders says what is wrong with the names of m's headers. Its errors are final: no broker would take m.
func checkHeaders(m *mainstay.Message) error {
	for name := range m.Headers {
		if name != dataContentType && (!extensionName(name) || outbox.ReservedHeader(name)) {
			return fmt.Errorf("a header may not be named %q", name)
		}
	}
	return nil
}

// headerBound is at least what the headers of m's record take on the wire: every byte may become three.
func headerBound(m *mainstay.Message) int {
	const names = 1024 // of all attributes, and those that are numbers
	text := 0
	for _, key := range attributes() {
		text += len(*field(m, key))
	}
	for name, value := range m.Headers {
		text += len(attrPrefix) + len(name) + len(": \r\n") + len(value)
	}
	return names + 3*text
}

// decode reads a record of a log. It keeps data, which must not change any more.
func decode(log mainstay.TopicLane, h nats.Header, data []byte) (*mainstay.Message, error) {
	m := &mainstay.Message{Topic: log.Topic, Lane: log.Lane, Payload: data}
	if v := first(h, "ce-specversion"); v != "1.0" {
		return nil, fmt.Errorf("specversion is %q, not 1.0", v)
	}
	for key, values := range h {
		if len(values) == 0 {
			continue
		}
		if err := decodeHeader(m, key, values[0]); err != nil {
			return nil, err
		}
	}
	if m.ID == "" || m.Type == "" {
		return nil, errors.New("ce-id or ce-type is missing")
	}
	return m, decodePlace(m, h)
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

// decodeHeader reads what is text: an attribute of the envelope, or a further header.
func decodeHeader(m *mainstay.Message, key, value string) error {
	to := field(m, key)
	name, ok := strings.CutPrefix(key, attrPrefix)
	if key == contentType && value != jsonContent {
		name, ok = dataContentType, true
	}
	if to == nil && (!ok || outbox.ReservedHeader(name)) {
		return nil
	}
	v, err := unescape(value)
	if err != nil {
		return fmt.Errorf("reading header %q: %w", key, err)
	}
	if to != nil {
		*to = v
		return nil
	}
	if !extensionName(name) {
		return fmt.Errorf("a header may not be named %q", name)
	}
	if m.Headers == nil {
		m.Headers = map[string]string{}
	}
	m.Headers[name] = v
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
