package keyserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pollClient is a sidecar over its own connection. It does as little as it can, so that the processor time is the server's.
type pollClient struct {
	conn  net.Conn
	in    *bufio.Reader
	name  string
	polls int
}

// poll sends a poll and returns the revision of the response.
func (c *pollClient) poll(epoch string, after int64, wait int) (revision int64, err error) {
	c.polls++
	body := fmt.Sprintf(`{"sidecar":%q,"poll":%d,"after":%d,"epoch":%q,"wait_ms":%d,"max_stale_ms":60000}`, c.name, c.polls, after, epoch, wait)
	_, err = fmt.Fprintf(c.conn, "POST /v1/changes HTTP/1.1\r\nHost: keyd\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		sidecarToken, len(body), body)
	if err != nil {
		return 0, err
	}
	length := 0
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if value, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		}
		if len(line) == 2 {
			break
		}
	}
	raw := make([]byte, length)
	if _, err := io.ReadFull(c.in, raw); err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), `"revision":`)
	_, err = fmt.Sscan(rest, &revision)
	return revision, err
}

func processorTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // never fails
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// run polls until the connection closes.
func (c *pollClient) run(epoch string, after int64) {
	for err := error(nil); err == nil; {
		after, err = c.poll(epoch, after, 30000)
	}
}

// One iteration is a change that waits for 500 sidecars. Cpu-µs/op is the processor time of this process, most of it the
// server's.
func BenchmarkFanOut(b *testing.B) {
	f := setUp(b)
	f.account("a")
	ln, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: f.Sidecars(), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(ln) }()
	defer func() { _ = server.Close() }()
	const sidecars = 500
	epoch, head := f.startSidecar("first", "")
	f.poll("first", 0, epoch, `,"leave":true`)
	for i := range sidecars {
		conn, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		c := &pollClient{conn: conn, in: bufio.NewReader(conn), name: fmt.Sprint("s", i)}
		go c.run(epoch, head)
	}
	for f.waiting.Load() < sidecars {
		<-time.After(time.Millisecond)
	}
	before := processorTime()
	for b.Loop() {
		if r := f.operator("POST", "/v1/accounts/a/keys?wait_ms=30000", `{"label":"x"}`); r.at("change", "effective") != true {
			b.Fatal(r.raw)
		}
	}
	b.ReportMetric(float64((processorTime()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}
