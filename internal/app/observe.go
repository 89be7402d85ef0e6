package app

import (
	"net/http"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// Observer is told what a server does. It is called by several goroutines and must not block.
type Observer interface {
	// Answered is one request that was answered: the pattern of its route, with "?wait" behind it where the request
	// was held as a waiter; "" of a request that was refused before it had a route. A handler that cut its answer
	// short counts as status 500, whatever it had sent.
	Answered(route string, status int, took time.Duration)
}

// observed tells o of every request that next answers.
func observed(next http.Handler, o Observer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := clock.Start()
		sent := &witness{ResponseWriter: w, status: http.StatusInternalServerError}
		defer func() { o.Answered(routeOf(r), sent.status, began.Elapsed()) }()
		next.ServeHTTP(sent, r)
		sent.end()
	})
}

// routeOf names the route of a request that was served: patterns are few, paths are not.
func routeOf(r *http.Request) string {
	if r.Pattern != "" && waits(r) {
		return r.Pattern + "?wait"
	}
	return r.Pattern
}

// witness notices the status of an answer; until the handler has ended, it is that of a cut answer.
type witness struct {
	http.ResponseWriter
	begun, status int
}

func (w *witness) WriteHeader(status int) {
	if w.begun == 0 && status >= http.StatusOK {
		w.begun = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *witness) Write(b []byte) (int, error) {
	if w.begun == 0 {
		w.begun = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// end takes what was sent, or what net/http sends of a handler that sent nothing.
func (w *witness) end() {
	if w.status = w.begun; w.status == 0 {
		w.status = http.StatusOK
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (w *witness) Unwrap() http.ResponseWriter { return w.ResponseWriter }
