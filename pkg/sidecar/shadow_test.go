package sidecar

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

func TestShadowModeIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, log := observer.New(zap.DebugLevel)
		registry := prometheus.NewRegistry()
		s := newShadow(zap.New(core), registry)
		go func() { _ = s.run(t.Context()) }() // it returns nil
		want := func(event string, lines int, gauge float64) {
			t.Helper()
			synctest.Wait()
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			if got := families[0].GetMetric()[0].GetGauge().GetValue(); got != gauge || log.Len() != lines {
				t.Errorf("%s: gauge %v and %d lines, want %v and %d", event, got, log.Len(), gauge, lines)
			}
			log.TakeAll()
		}
		checker := extauthz.NewChecker(nil, nil, &extauthz.Rules{}, nil)
		s.add(checker)
		want("a start without it", 0, 0)
		checker.SetRules(&extauthz.Rules{Shadow: true})
		s.look()
		want("a reload that sets it", 1, 1)
		s.look()
		want("a reload that keeps it", 1, 1)
		<-time.After(10*time.Hour + time.Minute)
		want("10 hours", 10, 1)
		checker.SetRules(&extauthz.Rules{})
		s.look()
		<-time.After(2 * time.Hour)
		want("a reload that ends it", 0, 0)
		other := extauthz.NewChecker(nil, nil, &extauthz.Rules{Shadow: true}, nil)
		s.add(other)
		want("a start of another checker", 1, 1)
		s.remove(other)
		<-time.After(2 * time.Hour)
		want("its end", 0, 0)
	})
}
