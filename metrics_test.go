package repo

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// TestMetricsTables checks that the tables in docs/metrics.md are what the programs export, and that what they export follows
// Prometheus' rules for names, as promtool check metrics does. With UPDATE=1 in the environment it writes the tables.
func TestMetricsTables(t *testing.T) {
	const path = "docs/metrics.md"
	text := read(t, path)
	for program, page := range metricsPages(t) {
		problems, err := promlint.New(bytes.NewReader(page)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", program, p.Metric, p.Text)
		}
		var table strings.Builder
		table.WriteString("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n")
		families := parseMetrics(page)
		for _, name := range slices.Sorted(maps.Keys(families)) {
			f := families[name]
			fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", name, f.kind, unit(name), f.labelText(), f.help)
		}
		begin, end := "<!-- "+program+" -->\n", "<!-- /"+program+" -->"
		before, rest, found := strings.Cut(text, begin)
		written, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("%s has no place for the table of %s", path, program)
		}
		if written != table.String() && os.Getenv("UPDATE") == "" {
			t.Errorf("%s has another table of %s than it exports: run UPDATE=1 go test -run %s .\nonly in the file: %q\nonly exported: %q",
				path, program, t.Name(), linesMissing(written, table.String()), linesMissing(table.String(), written))
		}
		text = before + begin + table.String() + end + after
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// linesMissing returns the lines of a text that another lacks.
func linesMissing(text, other string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.Contains(other, line) })
}

// unit returns the unit that the name of a metric says.
func unit(name string) string {
	switch name = strings.TrimSuffix(name, "_total"); {
	case strings.HasSuffix(name, "_timestamp_seconds"):
		return "s since 1970"
	case strings.HasSuffix(name, "_seconds"):
		return "s"
	}
	return "1"
}

// metricFamily is one metric of a program.
type metricFamily struct {
	kind, help string
	labels     map[string]map[string]bool // values by name
}

// openLabels says what the values of a label are if a table cannot list them.
var openLabels = map[string]string{
	"version": "of the build", "revision": "of the source", "goversion": "of Go",
	"field": "fields of the configuration with certificates",
	"route": "method and path of the OpenAPI document; path alone: method not allowed; other: no such path",
	"code":  "HTTP status",
}

func (f *metricFamily) labelText() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(f.labels)) {
		values := openLabels[name]
		if values == "" {
			var list []string
			for _, value := range slices.Sorted(maps.Keys(f.labels[name])) {
				list = append(list, "`"+value+"`")
			}
			values = strings.Join(list, ", ")
		}
		all = append(all, "`"+name+"`: "+values)
	}
	return strings.Join(all, "; ")
}

var (
	metricLine = regexp.MustCompile(`^(\w+)(?:\{(.*)\})? \S+$`)
	labelPair  = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)
)

// parseMetrics parses a page in Prometheus' text format, without the metrics of libraries.
func parseMetrics(page []byte) map[string]*metricFamily {
	all := map[string]*metricFamily{}
	var current *metricFamily
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			current = &metricFamily{help: help, labels: map[string]map[string]bool{}}
			if strings.HasPrefix(name, "phantom_") {
				all[name] = current
			}
		} else if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			_, current.kind, _ = strings.Cut(rest, " ")
		} else if m := metricLine.FindStringSubmatch(line); m != nil {
			for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
				if pair[1] == "le" {
					continue
				}
				if current.labels[pair[1]] == nil {
					current.labels[pair[1]] = map[string]bool{}
				}
				current.labels[pair[1]][pair[2]] = true
			}
		}
	}
	return all
}

// metricsPages starts keyd and authzd with all that has metrics, and returns what they export just after their start.
func metricsPages(t *testing.T) map[string][]byte {
	t.Helper()
	database, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := database.Remove(); err != nil {
			t.Error(err)
		}
	}()
	pages := map[string][]byte{}
	err = testbed.Run(t.Context(), func(tb *testbed.Testbed) error {
		cert, key, err := certificate()
		if err == nil {
			err = errors.Join(os.WriteFile(tb.File("tls.crt"), cert, 0o600), os.WriteFile(tb.File("tls.key"), key, 0o600))
		}
		if err != nil {
			return err
		}
		tls := testbed.Config{"cert_file": "tls.crt", "key_file": "tls.key", "client_ca_file": "tls.crt"}
		keyd, err := tb.StartKeyd(t.Context(), testbed.Config{"store": database.URL("postgres"), "listen": testbed.Config{
			"sidecars": "unix://" + tb.Socket("sidecars"), "operators": "tcp://127.0.0.1:0", "owners": "unix://" + tb.Socket("owners"),
			"admin": "tcp://127.0.0.1:0", "tls": tls,
		}})
		if err != nil {
			return err
		}
		authzd, err := tb.StartAuthzd(t.Context(), "authzd", testbed.Config{"listen": testbed.Config{
			"check": []string{"tcp://127.0.0.1:0"}, "admin": "tcp://127.0.0.1:0", "tls": tls,
		}})
		if err != nil {
			return err
		}
		for program, p := range map[string]*testbed.Process{"keyd": keyd, "authzd": authzd} {
			if pages[program], err = testbed.Get(context.WithoutCancel(t.Context()), p.Admin()+"/metrics"); err != nil {
				return err
			}
		}
		return nil
	}, "cmd/keyd", "cmd/authzd")
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// certificate makes a certificate that is its own CA, and its key.
func certificate() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), err
}
