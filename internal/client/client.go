// Package client speaks to the HTTP APIs of a running backbone: the ingest API and the operator API.
//
// Placing an order may be repeated blindly: it is sent again with the same idempotency key until the server has
// answered for good, so a lost answer, a restart of the server or an overload costs time and nothing else. Reading and
// setting are sent once, but Await, which lives through a restart as well.
//
// Errors are *app.Error with the exit code and hint that a command ends with; the server's own problem document is in
// the chain as *problem.Problem.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/problem"
)

const (
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 4 << 20
	// patience is how long one request may take beyond what the server was asked to wait.
	patience = 15 * time.Second
)

// Config says where the servers are and how stubborn to be. A zero value is its default.
type Config struct {
	// URL is the ingest API, OpsURL the operator API: "http://127.0.0.1:8080". Either may be empty when its calls
	// are not used.
	URL, OpsURL string
	// Attempts bounds how often an order is sent (10).
	Attempts int
	// Backoff is the longest pause after the first failure (50 ms); it doubles up to MaxBackoff (2 s). The pause is
	// random below that, and never shorter than the server's Retry-After.
	Backoff, MaxBackoff time.Duration
	// Transport sends requests; by default one that keeps 256 connections.
	Transport http.RoundTripper
}

// Client is a client of one backbone. It may be used by many goroutines.
type Client struct {
	cfg  Config
	http *http.Client
}

// New makes a client. It does not connect; the error, of code app.ExitUsage, says which URL is not one.
func New(cfg Config) (*Client, error) {
	for _, base := range []*string{&cfg.URL, &cfg.OpsURL} {
		u, err := url.Parse(*base)
		if *base != "" && (err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "") {
			return nil, app.Errorf(app.ExitUsage, "An address looks like http://127.0.0.1:8080.", "%q is not the URL of a server", app.Redact(*base))
		}
		*base = strings.TrimSuffix(*base, "/")
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 10
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 50 * time.Millisecond
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = 2 * time.Second
	}
	if cfg.Transport == nil {
		t := &http.Transport{Proxy: http.ProxyFromEnvironment}
		if standard, ok := http.DefaultTransport.(*http.Transport); ok {
			t = standard.Clone()
		}
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 256, 256
		cfg.Transport = t
	}
	return &Client{cfg: cfg, http: &http.Client{Transport: cfg.Transport}}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request is one HTTP request, as often as it is sent.
type request struct {
	doing  string // for errors: "placing an order"
	method string
	url    string
	key    string // idempotency key; "" for none
	body   []byte
	wait   time.Duration
}

// answer is what came back for good.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send sends r once. Of an answer that is none of success it makes an error.
func (c *Client) send(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, r.wait+patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		return answer{}, app.Errorf(app.ExitUsage, "", "%s: %w", r.doing, err)
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, r.unreachable(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return answer{}, r.unreachable(err)
	}
	a := answer{status: res.StatusCode, header: res.Header, body: body}
	if a.status < 200 || a.status > 299 {
		return a, r.refused(a)
	}
	return a, nil
}

// unreachable is the error of a request without an answer. What was done at the server is not known.
func (r request) unreachable(err error) error {
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err // the URL is said once
	}
	base, _, _ := strings.Cut(r.url, "/v1/")
	return app.Errorf(app.ExitUnreachable, "Is a server running there? `mainstay serve` starts one; --url names another.",
		"%s: no answer from %s: %w", r.doing, strings.TrimSuffix(base, "/readyz"), err)
}

// refused is the error of an answer that is no success.
func (r request) refused(a answer) error {
	p := readProblem(a)
	err := fmt.Errorf("%s: %w", r.doing, p)
	for _, m := range p.Errors {
		err = fmt.Errorf("%w\n  %s: %s", err, m.Pointer, m.Detail)
	}
	return &app.Error{Code: exitCode(a.status), Err: err}
}

// readProblem reads the problem document of an answer, or makes one of an answer that has none.
func readProblem(a answer) *problem.Problem {
	p := new(problem.Problem)
	media, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err == nil && media == problem.ContentType && json.Unmarshal(a.body, p) == nil && p.Title != "" {
		p.Status = a.status
		return p
	}
	title := http.StatusText(a.status)
	if title == "" {
		title = "unknown status"
	}
	return &problem.Problem{Type: "about:blank", Title: fmt.Sprintf("%d %s", a.status, title), Status: a.status}
}

func exitCode(status int) int {
	switch status {
	case http.StatusBadRequest:
		return app.ExitUsage
	case http.StatusNotFound:
		return app.ExitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusUnprocessableEntity:
		return app.ExitConflict
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return app.ExitUnreachable
	default:
		return app.ExitError
	}
}

// retryAfter is how long the server asks to wait: its Retry-After in seconds, else 0.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 3600)) * time.Second
}
