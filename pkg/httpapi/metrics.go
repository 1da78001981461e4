package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/telemetry"
)

// Metrics counts the requests of the sides of an API. No label has a value that a client chose.
type Metrics struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
}

// NewMetrics registers the metrics of one program. The prefix begins their names.
func NewMetrics(reg prometheus.Registerer, prefix string) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: prefix,
			Name:      "requests_total",
			Help:      "Requests, by side, route and status code.",
		}, []string{"side", "route", "code"}),
		latency: prometheus.NewHistogramVec(telemetry.Native(prometheus.HistogramOpts{
			Namespace: prefix,
			Name:      "request_duration_seconds",
			Help:      "Seconds until the response was written, including the waits of long polls and of wait_ms.",
			Buckets:   []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 15, 60},
		}), []string{"side", "route"}),
	}
	reg.MustRegister(m.requests, m.latency)
	return m
}

func (m *Metrics) observe(side, route string, status int, took time.Duration) {
	m.requests.WithLabelValues(side, route, codeLabel(status)).Inc()
	m.latency.WithLabelValues(side, route).Observe(took.Seconds())
}

// codeLabel returns a status code as a label: "other" if HTTP does not define it, so that the number
// of series is bounded.
func codeLabel(status int) string {
	if http.StatusText(status) == "" {
		return "other"
	}
	return strconv.Itoa(status)
}

// label returns the label of the endpoint's requests: with the method of the route, else without one.
func (e *endpoint[C]) label(method string) string {
	if _, ok := e.methods[method]; !ok {
		return e.path
	}
	if method == http.MethodHead { // which GET's route answers
		method = http.MethodGet
	}
	return method + " " + e.path
}

// Codes that only a request with a body has, and those of a request that has no route.
var (
	bodyCodes    = []int{http.StatusCreated, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType}
	noRouteCodes = []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests}
)

// preset makes the series of all routes: the first increase of a series that did not exist is lost to rate().
func (a *API[C]) preset(unknown *endpoint[C], endpoints map[string]*endpoint[C]) {
	add := func(label string, codes ...int) {
		a.Metrics.latency.WithLabelValues(a.Side, label)
		for _, code := range codes {
			a.Metrics.requests.WithLabelValues(a.Side, label, codeLabel(code))
		}
	}
	var rejected []int
	for _, code := range noRouteCodes {
		if slices.Contains(a.Codes, code) {
			rejected = append(rejected, code)
		}
	}
	add(unknown.path, append(rejected, http.StatusNotFound)...)
	for _, e := range endpoints {
		add(e.path, append(rejected, http.StatusMethodNotAllowed)...)
		for method, r := range e.methods {
			for _, code := range a.Codes {
				switch {
				case r.Public && code != http.StatusOK && code != http.StatusBadRequest && code != http.StatusForbidden:
				case method == http.MethodHead:
				case method == http.MethodGet && slices.Contains(bodyCodes, code):
				default:
					add(e.label(method), code)
				}
			}
		}
	}
}
