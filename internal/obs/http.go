package obs

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// unrouted is the route of a request that was refused before it had one.
const unrouted = "none"

// HTTP observes servers.
type HTTP struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// NewHTTP registers the metrics of servers.
func NewHTTP(reg prometheus.Registerer) *HTTP {
	f := promauto.With(reg)
	return &HTTP{
		requests: f.NewCounterVec(counter("mainstay_http_requests_total",
			"Requests that were answered, by route and class of status; the route none is of those refused before they had one."),
			[]string{"server", "route", "status"}),
		seconds: f.NewHistogramVec(histogram("mainstay_http_request_seconds",
			"Duration of a request; where the route ends in ?wait, the time that the client asked to be held is in it.", seconds()),
			[]string{"server", "route"}),
	}
}

// Server observes one of them.
func (h *HTTP) Server(name string) *HTTPServer { return &HTTPServer{h: h, name: name} }

// HTTPServer observes one server.
type HTTPServer struct {
	h    *HTTP
	name string
}

// Answered observes a request that was answered.
func (s *HTTPServer) Answered(route string, status int, took time.Duration) {
	if route == "" {
		route = unrouted
	}
	s.h.requests.WithLabelValues(s.name, route, strconv.Itoa(status/100)+"xx").Inc()
	s.h.seconds.WithLabelValues(s.name, route).Observe(took.Seconds())
}
