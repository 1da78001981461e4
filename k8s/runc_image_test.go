//go:build image

package k8s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// command runs a tool and returns its output. The test fails if the tool fails.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// cluster is a network of hosts, each in its own network namespace, connected by a bridge in another one.
type cluster struct {
	bridge string            // namespace of the bridge
	hosts  map[string]string // address by name
	file   string            // /etc/hosts of all
}

func newCluster(t testing.TB, names map[string][]string) *cluster {
	t.Helper()
	id := fmt.Sprintf("ph%d", os.Getpid())
	c := &cluster{bridge: id, hosts: map[string]string{}, file: filepath.Join(t.TempDir(), "hosts")}
	namespace := func(name string) {
		command(t, "ip", "netns", "add", name)
		t.Cleanup(func() { command(t, "ip", "netns", "del", name) })
		command(t, "ip", "-n", name, "link", "set", "lo", "up")
	}
	namespace(id)
	command(t, "ip", "-n", id, "link", "add", "br0", "type", "bridge")
	command(t, "ip", "-n", id, "addr", "add", "10.99.0.1/24", "dev", "br0")
	command(t, "ip", "-n", id, "link", "set", "br0", "up")
	lines := "127.0.0.1 localhost\n"
	for host, aliases := range names {
		i := len(c.hosts) + 2
		c.hosts[host] = fmt.Sprintf("10.99.0.%d", i)
		lines += c.hosts[host] + " " + strings.Join(append(aliases, host), " ") + "\n"
		port := fmt.Sprintf("v%d", i)
		namespace(c.namespace(host))
		command(t, "ip", "-n", id, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", c.namespace(host))
		command(t, "ip", "-n", id, "link", "set", port, "master", "br0", "up")
		command(t, "ip", "-n", c.namespace(host), "addr", "add", c.hosts[host]+"/24", "dev", "eth0")
		command(t, "ip", "-n", c.namespace(host), "link", "set", "eth0", "up")
	}
	write(t, c.file, []byte(lines))
	if err := os.Chmod(c.file, 0o444); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) namespace(host string) string { return c.bridge + host }

// client returns a client that sends requests from the bridge, outside of all hosts.
func (c *cluster) client() *http.Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		type result struct {
			conn net.Conn
			err  error
		}
		done := make(chan result, 1)
		go func() {
			runtime.LockOSThread() // without unlock: the thread has left its namespace and must exit with the goroutine
			ns, err := os.Open("/run/netns/" + c.bridge)
			if err == nil {
				defer func() { _ = ns.Close() }()
				err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			}
			if err != nil {
				done <- result{err: err}
				return
			}
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			done <- result{conn, err}
		}()
		r := <-done
		return r.conn, r.err
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// mount is a directory or file of this machine in a container.
type mount struct {
	from, to string
	readOnly bool
}

// container is a running container.
type container struct {
	t      testing.TB
	name   string
	bundle string
	log    *os.File
	exited chan error
}

// spec describes a container.
type spec struct {
	name, host string // host is the one whose network it uses
	root       string
	args, env  []string
	mounts     []mount
	memory     int64
}

// run starts a container as user 65532 with a read-only root, a memory limit, and without capabilities and new privileges.
func (c *cluster) run(t testing.TB, s spec) *container {
	t.Helper()
	k := &container{t: t, name: c.namespace(s.host) + "-" + s.name, bundle: t.TempDir(), exited: make(chan error, 1)}
	command(t, "runc", "spec", "--bundle", k.bundle)
	file := filepath.Join(k.bundle, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	config["root"] = map[string]any{"path": s.root, "readonly": true}
	config["process"] = map[string]any{
		"terminal": false, "user": map[string]any{"uid": 65532, "gid": 65532}, "cwd": "/", "args": s.args, "env": s.env,
		"capabilities": map[string]any{}, "noNewPrivileges": true,
	}
	mounts := config["mounts"].([]any)
	for _, m := range append(s.mounts, mount{c.file, "/etc/hosts", true}) {
		options := []string{"rbind", "rw"}
		if m.readOnly {
			options[1] = "ro"
		}
		mounts = append(mounts, map[string]any{"destination": m.to, "source": m.from, "type": "bind", "options": options})
	}
	config["mounts"] = mounts
	linux := config["linux"].(map[string]any)
	linux["resources"] = map[string]any{"memory": map[string]any{"limit": s.memory}}
	for _, namespace := range linux["namespaces"].([]any) {
		if n := namespace.(map[string]any); n["type"] == "network" {
			n["path"] = "/run/netns/" + c.namespace(s.host)
		}
	}
	if text, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if k.log, err = os.Create(filepath.Join(k.bundle, "log")); err != nil {
		t.Fatal(err)
	}
	if err := k.log.Chmod(0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("runc", "run", "--bundle", k.bundle, k.name)
	cmd.Stdout, cmd.Stderr = k.log, k.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { k.exited <- cmd.Wait() }()
	t.Cleanup(k.remove)
	return k
}

func (k *container) remove() {
	_ = exec.Command("runc", "delete", "--force", k.name).Run()
	if k.t.Failed() {
		k.t.Logf("%s wrote:\n%s", k.name, k.output())
	}
	_ = k.log.Close()
}

func (k *container) output() string {
	text, _ := os.ReadFile(k.log.Name())
	return string(text)
}

// exec runs a program in the container as `kubectl exec` does, and returns its stdout.
func (k *container) exec(args ...string) (string, error) {
	out, err := exec.Command("runc", append([]string{"exec", k.name}, args...)...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// until repeats a probe until it succeeds.
func (k *container) until(what string, probe func() error) {
	k.t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var err error
	for range 150 {
		if err = probe(); err == nil {
			return
		}
		select {
		case exit := <-k.exited:
			k.t.Fatalf("%s exited before it was %s: %v", k.name, what, exit)
		case <-tick.C:
		}
	}
	k.t.Fatalf("%s is not %s: %v", k.name, what, err)
}

// wait waits for the exit of the process and returns its error.
func (k *container) wait(limit time.Duration) error {
	k.t.Helper()
	select {
	case err := <-k.exited:
		return err
	case <-time.After(limit):
		k.t.Fatalf("%s still runs after %v", k.name, limit)
		return nil
	}
}

// stop sends SIGTERM and checks that the process exits with code 0 within the limit.
func (k *container) stop(limit time.Duration) {
	k.t.Helper()
	command(k.t, "runc", "kill", k.name, "TERM")
	if err := k.wait(limit); err != nil {
		k.t.Errorf("%s after SIGTERM: %v", k.name, err)
	}
}

// owned changes the owner of a directory and its files to the programs' user, as fsGroup and new volumes do.
func owned(t testing.TB, folder string) string {
	t.Helper()
	for _, path := range []string{folder, filepath.Dir(folder)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(folder, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, 65532, 65532)
	})
	if err != nil {
		t.Fatal(err)
	}
	return folder
}
