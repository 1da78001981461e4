package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"thing": func() { os.Exit(daemon.Main(os.Args[1:], thing)) },
	})
}

// thing is a small program that uses all features of the frame. Its configuration has lines
// NAME=VALUE: admin and serve (names of sockets), drain, drain_delay, level, word (which it serves),
// needs (a file that must exist), and fault (which failure it simulates).
var thing = daemon.Program[settings]{
	Name:    "thing",
	Metrics: "thing",
	Summary: "serves one word.",
	Load:    load,
	Check: func(path string) error {
		cfg, err := load(path)
		if cfg.values["needs"] != "" && errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return err
	},
	Admin: func(path string) (net.Addr, error) { cfg, err := read(path); return cfg.socket("admin"), err },
	Print: func(cfg settings) ([]byte, error) {
		return []byte("word=" + cfg.values["word"] + "\n"), nil
	},
	Schema: func() ([]byte, error) { return []byte(`{"type":"object"}` + "\n"), nil },
	Settings: func(cfg settings) daemon.Settings {
		drain, err := time.ParseDuration(cfg.values["drain"])
		if err != nil {
			drain = 10 * time.Second
		}
		delay, _ := time.ParseDuration(cfg.values["drain_delay"])
		return daemon.Settings{Admin: cfg.socket("admin"), Drain: drain, DrainDelay: delay, LogLevel: cfg.values["level"]}
	},
	NeedsRestart: func(running, loaded settings) []string {
		if running.values["serve"] != loaded.values["serve"] {
			return []string{"serve"}
		}
		return nil
	},
	Start: start,
	Actions: []daemon.Action[settings]{{
		Flag: "shout", Help: "print the word in capitals and exit",
		Run: func(_ context.Context, rt *daemon.Runtime, cfg settings) error {
			rt.Add(daemon.Component{Name: "printer", Stop: func(context.Context) error { fmt.Println("printer stopped"); return nil }})
			if cfg.values["fault"] == "no printer" {
				return errors.New("missing printer")
			}
			fmt.Println(strings.ToUpper(cfg.values["word"]))
			return nil
		},
	}},
}

type settings struct {
	folder string
	values map[string]string
}

func (s settings) socket(name string) net.Addr {
	if s.values[name] == "" {
		return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	}
	return &net.UnixAddr{Net: "unix", Name: filepath.Join(s.folder, s.values[name])}
}

func read(path string) (settings, error) {
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return settings{}, err
	}
	cfg := settings{folder, map[string]string{"level": "info"}}
	text, err := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		cfg.values[name] = value
	}
	return cfg, err
}

func load(path string) (settings, error) {
	cfg, err := read(path)
	if err == nil && cfg.values["mistake"] != "" {
		err = errors.New(path + ":1: the first mistake\n" + path + ":2: the second mistake")
	}
	if name := cfg.values["needs"]; err == nil && name != "" {
		_, err = os.Stat(filepath.Join(cfg.folder, name))
	}
	return cfg, err
}

func start(ctx context.Context, rt *daemon.Runtime, cfg settings) (func(settings) error, error) {
	fault := cfg.values["fault"]
	rt.Add(daemon.Component{Name: "lowest", Stop: func(context.Context) error {
		rt.Log.Info("lowest stopped")
		return nil
	}})
	word := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "thing_word"}, []string{"word"})
	rt.Metrics.MustRegister(word)
	apply := func(cfg settings) error {
		if cfg.values["fault"] == "refuse" {
			return errors.New("word refused")
		}
		word.Reset()
		word.WithLabelValues(cfg.values["word"]).Set(1)
		rt.Log.Debug("a detail")
		return nil
	}
	ln, err := rt.Listen("listen.serve", cfg.socket("serve"))
	if err != nil {
		return nil, err
	}
	for name, state := range map[string]<-chan struct{}{"stopping": rt.Stopping(), "draining": rt.Draining()} {
		rt.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "thing_" + name}, func() float64 {
			if isStopped(state) {
				return 1
			}
			return 0
		}))
	}
	var polls atomic.Int32
	end := make(chan error)
	rt.Add(daemon.Component{Name: "worker", Run: func(ctx context.Context) error {
		select {
		case err := <-end:
			return err
		case <-ctx.Done():
			return nil
		}
	}})
	rt.ServeHTTP("words", ln, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/polls":
			_, _ = fmt.Fprint(w, polls.Load())
			return
		case "/poll":
			polls.Add(1)
			<-rt.Draining()
		case "/log": // 4 MiB in lines with different messages
			for i := range 4096 {
				rt.Log.Info(fmt.Sprint("line ", i), zap.String("text", strings.Repeat("x", 1<<10)))
			}
		case "/exit":
			end <- errors.New("disk full")
		case "/std":
			log.Print("line of a library")
		case "/panic":
			panic("the key is hunter2")
		}
		_, _ = io.WriteString(w, cfg.values["word"])
	}))
	switch fault {
	case "start":
		return nil, errors.New("no memory")
	case "panic":
		panic("the key is hunter2")
	case "slow start":
		if err := os.WriteFile(filepath.Join(cfg.folder, "waiting"), nil, 0o600); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, ctx.Err()
	case "exit":
		go func() { end <- errors.New("disk full") }()
	case "hang":
		rt.Add(daemon.Component{Name: "hanging", Stop: func(context.Context) error { select {} }})
	case "never ready":
		rt.ReadyWhen("store", func() error { return errors.New("locked") })
	}
	rt.Log.Info("serving", zap.String("word", cfg.values["word"]))
	return apply, apply(cfg)
}
