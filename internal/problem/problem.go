package problem

import (
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
)

// ContentType is the media type of problem documents.
const ContentType = "application/problem+json"

// Problem is an RFC 9457 problem document. It is an error, so that code below a handler can decide what the client
// is told.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   Code   `json:"code"`
	Detail string `json:"detail,omitempty"`
	// RetryAfter is in seconds; above zero, the same request may succeed after it. It is also the header.
	RetryAfter int `json:"retry_after,omitzero"`
	// Errors are the single mistakes of a body.
	Errors []Mistake `json:"errors,omitempty"`
}

// Mistake is one thing wrong with a body.
type Mistake struct {
	// Pointer is the JSON pointer (RFC 6901) of the value; empty for the body as a whole.
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

// New makes a problem of the code.
func New(c Code, detail string) *Problem {
	status, title := c.describe()
	return &Problem{Type: c.Type(), Title: title, Status: status, Code: c, Detail: detail}
}

// After says when to ask again, in whole seconds, at least one.
func (p *Problem) After(d time.Duration) *Problem {
	p.RetryAfter = max(1, int((d+time.Second-1)/time.Second))
	return p
}

// Error gives title and detail.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// Write answers with p. Nothing may have been written before.
func Write(w http.ResponseWriter, _ *http.Request, p *Problem) {
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	writeJSON(w, p.Status, ContentType, p)
}

// WriteJSON answers with v as JSON, which must be marshalable; nothing may have been written before.
func WriteJSON(w http.ResponseWriter, status int, v any) { writeJSON(w, status, "application/json", v) }

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "encoding the answer", http.StatusInternalServerError)
		return
	}
	body = append(body, '\n') // for those who read it on a terminal
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has left; nobody is there to be told
}
