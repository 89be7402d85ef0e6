package order

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/problem"
)

const (
	// anonymous is the principal until there is authentication.
	anonymous = "anonymous"
	// maxWait bounds ?wait.
	maxWait = 60 * time.Second

	routePost = "POST /v1/orders"
	routeGet  = "GET /v1/orders/{id}"
)

// Accepter stores an order once per idempotency key.
type Accepter interface {
	// Accept stores the order with its answer, or finds the answer that was stored under the key before. An error
	// that is a *problem.Problem is told to the client as it is; any other is the server's fault: 500 when it is
	// terminal (see mainstay.KindOf), else 503.
	Accept(ctx context.Context, s Submission) (Receipt, error)
}

// Submission is an order on its way in.
type Submission struct {
	Principal string
	Route     string
	// Key has the values of the Idempotency-Key header, as sent; never empty.
	Key []string
	// Method, Path and Body are what the request is recognised by.
	Method string
	Path   string
	Body   []byte
	Order  *Order
	// Answer is what the client is to get, now and for the same key later.
	Answer Answer
}

// Answer is a response.
type Answer struct {
	Status int
	Header map[string]string
	Body   []byte
}

// Receipt is what the client gets.
type Receipt struct {
	Answer
	// Replayed says that the key was used before, for the same request.
	Replayed bool
}

// Reader finds orders.
type Reader interface {
	// Get reads one order; ErrNotFound when there is none.
	Get(ctx context.Context, id string) (View, error)
}

// Waiter waits for the end of orders; see Waiters.
type Waiter interface {
	Wait(ctx context.Context, id string, already func() (bool, error)) error
}

// HTTP has the routes of orders.
type HTTP struct {
	Accepter Accepter
	Reader   Reader
	Waiter   Waiter
	Clock    clock.Clock
	Log      *slog.Logger

	said complaint
}

// Routes lists the patterns that Mount registers.
func Routes() []string { return []string{routePost, routeGet} }

// Mount registers the routes.
func (h *HTTP) Mount(mux *http.ServeMux) {
	mux.HandleFunc(routePost, h.post)
	mux.HandleFunc(routeGet, h.get)
}

func (h *HTTP) post(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Values("Idempotency-Key")
	if strings.TrimSpace(strings.Join(key, "")) == "" {
		problem.Write(w, r, problem.New(problem.KeyMissing,
			"send an Idempotency-Key of 1 to 255 visible ASCII characters, fresh for every intention"))
		return
	}
	if r.URL.RawQuery != "" {
		problem.Write(w, r, problem.New(problem.BadRequest,
			"an order is posted without query parameters: to wait for its end, GET it with ?wait=30s under the answer's Location"))
		return
	}
	s, p := h.submission(w, r, key)
	if p != nil {
		problem.Write(w, r, p)
		return
	}
	receipt, err := h.Accepter.Accept(r.Context(), s)
	if err != nil {
		h.fail(w, r, "accepting an order", err)
		return
	}
	writeReceipt(w, receipt)
}

func (h *HTTP) submission(w http.ResponseWriter, r *http.Request, key []string) (Submission, *problem.Problem) {
	body, p := problem.ReadBody(w, r, maxBody)
	if p != nil {
		return Submission{}, p
	}
	draft, total, p := Decode(body)
	if p != nil {
		return Submission{}, p
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Submission{}, problem.New(problem.Internal, "drawing an id")
	}
	o := &Order{
		ID: id.String(), Principal: anonymous, Draft: draft, Total: total, CreatedAt: h.Clock(),
		Traceparent: traceparent(r.Header.Get("Traceparent")),
	}
	answer, err := json.Marshal(o.View())
	if err != nil {
		return Submission{}, problem.New(problem.Internal, "encoding the answer")
	}
	return Submission{
		Principal: anonymous, Route: routePost, Key: key,
		Method: r.Method, Path: r.URL.Path, Body: body, Order: o,
		Answer: Answer{
			Status: http.StatusAccepted,
			Header: map[string]string{"Content-Type": "application/json", "Location": "/v1/orders/" + o.ID},
			Body:   append(answer, '\n'),
		},
	}, nil
}

func writeReceipt(w http.ResponseWriter, receipt Receipt) {
	for name, value := range receipt.Header {
		w.Header().Set(name, value)
	}
	if receipt.Replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(receipt.Body)))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(receipt.Status)
	_, _ = w.Write(receipt.Body) // the client has left; it asks again with its key
}

func (h *HTTP) get(w http.ResponseWriter, r *http.Request) {
	wait, p := parseWait(r)
	if p != nil {
		problem.Write(w, r, p)
		return
	}
	id := r.PathValue("id")
	if uuid.Validate(id) != nil || len(id) != 36 {
		h.fail(w, r, "reading an order", ErrNotFound)
		return
	}
	view, err := h.await(r.Context(), strings.ToLower(id), wait)
	if err != nil {
		h.fail(w, r, "reading an order", err)
		return
	}
	problem.WriteJSON(w, http.StatusOK, view)
}

// await reads an order, and again when it has ended or wait is over, whichever comes first.
func (h *HTTP) await(ctx context.Context, id string, wait time.Duration) (View, error) {
	if wait == 0 {
		return h.Reader.Get(ctx, id)
	}
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var view View
	err := h.Waiter.Wait(waitCtx, id, func() (ended bool, err error) {
		view, err = h.Reader.Get(ctx, id)
		return view.Status.Ended(), err
	})
	switch {
	case err != nil && (!errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil):
		return View{}, err
	case err == nil && view.ID != "" && view.Status.Ended():
		return view, nil
	}
	return h.Reader.Get(ctx, id)
}

// traceparent passes a W3C trace context on, or drops what is none.
func traceparent(s string) string {
	if len(s) != 55 || strings.Trim(s, "0123456789abcdef-") != "" {
		return ""
	}
	return s
}

// parseWait reads ?wait: a duration as "30s" or "1m", or a number of seconds.
func parseWait(r *http.Request) (time.Duration, *problem.Problem) {
	values, sent := r.URL.Query()["wait"]
	if !sent {
		return 0, nil
	}
	wait, err := time.ParseDuration(values[0])
	if seconds, notNumber := strconv.ParseUint(values[0], 10, 16); notNumber == nil {
		wait, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || len(values) > 1 || wait < 0 || wait > maxWait {
		return 0, problem.New(problem.BadRequest, `wait must be a duration of at most a minute, as "30s" or "30"`)
	}
	return wait, nil
}

func (h *HTTP) fail(w http.ResponseWriter, r *http.Request, doing string, err error) {
	var told *problem.Problem
	switch {
	case errors.As(err, &told):
	case errors.Is(err, ErrNotFound):
		told = problem.New(problem.NotFound, "there is no order with this id")
	case errors.Is(err, ErrTooManyWaiters):
		told = problem.New(problem.Overloaded, "too many requests are waiting").After(time.Second)
	case r.Context().Err() != nil: // the client has left: nobody reads the answer
		told = problem.New(problem.Unavailable, "the request ended")
	case mainstay.KindOf(r.Context(), err) == mainstay.KindTerminal:
		told = problem.New(problem.Internal, "asking again will not help")
		h.Log.ErrorContext(r.Context(), "request failed", "doing", doing, "err", err)
	default:
		told = problem.New(problem.Unavailable, "this could not be done now").After(time.Second)
		if silent, due := h.said.due(); due {
			h.Log.ErrorContext(r.Context(), "request failed", "doing", doing, "err", err, "others_not_logged", silent)
		}
	}
	problem.Write(w, r, told)
}

// complaintEvery is how often is logged that requests fail: while the database is away, all of them do.
const complaintEvery = time.Second

// complaint says when a line is due. It may be used by many goroutines.
type complaint struct {
	mu     sync.Mutex
	begun  bool
	last   clock.Mono
	silent int
}

// due says whether to log now, and of how many failures nothing was said since the last time.
func (c *complaint) due() (silent int, due bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun && c.last.Elapsed() < complaintEvery {
		c.silent++
		return 0, false
	}
	silent, c.silent = c.silent, 0
	c.begun, c.last = true, clock.Start()
	return silent, true
}
