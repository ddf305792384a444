package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
	"github.com/grantway/grantway/internal/sqlstore"
)

// metrics counts what a node does. No label holds anything that a client can
// choose: routes are templates, grants and reasons come from our own tables.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	outcomes *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grantway_request_seconds", Help: "How long requests took, by the template of their route and the class of their status.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route", "status"}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grantway_outcomes_total", Help: "Token requests and introspections, by grant type and by the reason of the refusal; ok if there was none.",
		}, []string{"grant", "reason"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "grantway_build_info", Help: "1, labelled with the version.", ConstLabels: prometheus.Labels{"version": version().Version}})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.outcomes, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// classes of status, so that a label is no allocation.
var classes = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

func (m *metrics) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, classes[min(status/100, len(classes)-1)]).Observe(took.Seconds())
}

func (m *metrics) outcome(o oauth.Outcome) {
	reason := string(o.Reason)
	if reason == "" {
		reason = "ok"
	}
	m.outcomes.WithLabelValues(string(o.Grant), reason).Inc()
}

// watch adds what is read from the parts when somebody asks.
func (m *metrics) watch(store *sqlstore.Store, server *oauth.Server, accounts *people.Service, in *intake) {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	m.counter("grantway_events_failed_total", "Storage events that came to nothing, or whose outcome is unknown.", func() uint64 { return store.Stats().Failed })
	m.counter("grantway_events_retried_total", "Storage events sent again after a serialization failure, a deadlock, or in vain with others.", func() uint64 { return store.Stats().Retries })
	gauge("grantway_events_waiting", "Storage events, and questions, that wait for their turn or for a connection.", func() float64 { return float64(store.Stats().Waiting) })
	m.counter("grantway_connections_rehearsed_total", "Connections to PostgreSQL that have played revocations.", func() uint64 { return store.Stats().Rehearsed })
	m.counter("grantway_shed_total", "Requests and connections for which there was no room.", in.shed.Load)
	gauge("grantway_requests_working", "Requests in work.", func() float64 { return float64(in.work.taken.Load() + in.kept.taken.Load()) })
	gauge("grantway_password_hashes", "Password hashes being made or waited for.", func() float64 { return float64(accounts.Hashing()) })
	gauge("grantway_feed_lag_seconds", "How long ago this node last read the feed's sequence.", func() float64 { return server.FeedLag().Seconds() })
	gauge("grantway_feed_seq", "The feed's sequence that this node has followed to.", func() float64 { return float64(server.FeedSeq()) })
	m.registry.MustRegister(groups{store}, followers{server}, lists{store})
}

func (m *metrics) counter(name, help string, value func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
}

// followers collects how far the API servers have come. There is no label: instances
// are as many as there are processes.
type followers struct{ server *oauth.Server }

var (
	followerCount  = prometheus.NewDesc("grantway_followers", "API servers that follow revocations, on whichever node.", nil, nil)
	followerBehind = prometheus.NewDesc("grantway_followers_behind_events", "Events that the one furthest behind has not acknowledged.", nil, nil)
	followerLag    = prometheus.NewDesc("grantway_followers_lag_seconds", "How long the slowest took from when an event was known here until it was acknowledged, of late.", nil, nil)
	effectSeconds  = prometheus.NewDesc("grantway_effect_seconds", "How long the last change that somebody waited for on this node took to be in effect everywhere.", nil, nil)
)

func (followers) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{followerCount, followerBehind, followerLag, effectSeconds} {
		c <- d
	}
}

func (f followers) Collect(c chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	if e, at := f.server.LastEffect(); !at.IsZero() {
		gauge(effectSeconds, e.After.Seconds())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	list, err := f.server.Followers(ctx, oauth.Actor{Kind: oauth.AsSystem})
	if err != nil { // the database is away, which other series say
		return
	}
	var behind int64
	var lag time.Duration
	for _, one := range list {
		if one.Epoch != 0 {
			behind = max(behind, f.server.FeedSeq()-one.Seq)
		}
		lag = max(lag, one.Lag)
	}
	gauge(followerCount, float64(len(list)))
	gauge(followerBehind, float64(behind))
	gauge(followerLag, lag.Seconds())
}

// lists collects how many status lists are left.
type lists struct{ store *sqlstore.Store }

var listsLeft = prometheus.NewDesc("grantway_status_lists_left", "Status lists, of a million keys each, that can still be begun in this epoch.", nil, nil)

func (lists) Describe(c chan<- *prometheus.Desc) { c <- listsLeft }

func (l lists) Collect(c chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if left, err := l.store.ListsLeft(ctx); err == nil { // else the database is away, which other series say
		c <- prometheus.MustNewConstMetric(listsLeft, prometheus.GaugeValue, float64(left))
	}
}

// groups collects the sizes of commits as a histogram.
type groups struct{ store *sqlstore.Store }

var groupSize = prometheus.NewDesc("grantway_commit_events", "How many storage events one commit made durable.", nil, nil)

func (groups) Describe(c chan<- *prometheus.Desc) { c <- groupSize }

func (g groups) Collect(c chan<- prometheus.Metric) {
	s := g.store.Stats()
	buckets, sum := map[float64]uint64{}, uint64(0)
	for i, bound := range sqlstore.GroupSizes {
		sum += s.Groups[i]
		buckets[float64(bound)] = sum
	}
	c <- prometheus.MustNewConstHistogram(groupSize, sum, float64(s.Events), buckets)
}

// serve answers /metrics on l until the server that it returns is closed.
func (m *metrics) serve(l net.Listener, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	s := httpServer(mux, log)
	go s.Serve(l)
	return s
}
