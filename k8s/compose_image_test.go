//go:build image

package k8s

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
)

// composed runs the compose project with runc, each service in its own network namespace.
type composed struct {
	t       *testing.T
	cluster *cluster
	project *types.Project
	image   string // root of the image of the programs
	shell   string // root with this machine's shell, Envoy and curl, and with the files of the images seed and envoy
	mounts  []mount
	env     []string // variables of Envoy's image
	volumes map[string]string
	running map[string]*container
}

// up starts a service as `docker compose up` does: after its dependencies have met their conditions.
func (c *composed) up(name string) *container {
	c.t.Helper()
	if k, ok := c.running[name]; ok {
		return k
	}
	service := c.project.Services[name]
	needs := make([]string, 0, len(service.DependsOn))
	for need := range service.DependsOn {
		needs = append(needs, need)
	}
	slices.Sort(needs)
	for _, need := range needs {
		k := c.up(need)
		switch service.DependsOn[need].Condition {
		case types.ServiceConditionHealthy:
			health := c.project.Services[need].HealthCheck.Test[1:]
			k.until("healthy", func() error { _, err := k.exec(health...); return err })
			unprivileged(c.t, k)
		case types.ServiceConditionCompletedSuccessfully:
			c.finished(k)
		}
	}
	c.running[name] = c.run(service, nil)
	return c.running[name]
}

// finished waits until a service exits.
func (c *composed) finished(k *container) {
	c.t.Helper()
	err := k.wait(time.Minute)
	k.exited <- err
	if err != nil {
		c.t.Fatalf("%s: %v", k.name, err)
	}
}

func (c *composed) run(s types.ServiceConfig, command []string) *container {
	c.t.Helper()
	if command == nil {
		command = s.Command
	}
	made := spec{
		name: s.Name, host: s.Name, root: c.image, args: append(slices.Clone(s.Entrypoint), command...),
		env: []string{"PATH=/bin:/opt/envoy:/run/keyctl:/usr/bin"}, memory: int64(s.MemLimit),
	}
	if made.memory == 0 {
		made.memory = 256 << 20
	}
	if s.Build.Target != "compose" { // Envoy and the services that need a shell
		made.root, made.mounts, made.env = c.shell, slices.Clone(c.mounts), append(made.env, c.env...)
	}
	for name, value := range s.Environment {
		made.env = append(made.env, name+"="+*value)
	}
	for _, v := range s.Volumes {
		if c.volumes[v.Source] == "" {
			c.volumes[v.Source] = c.t.TempDir()
		}
		made.mounts = append(made.mounts, mount{owned(c.t, c.volumes[v.Source]), v.Target, v.ReadOnly})
	}
	return c.cluster.run(c.t, made)
}

// newComposed prepares the images and the network of the project.
func newComposed(t *testing.T, files []string) *composed {
	_ = rootfs(t) // rootOf needs it
	c := &composed{
		t: t, image: rootOf(t, "compose"), project: composeProject(t, files), volumes: map[string]string{}, running: map[string]*container{},
	}
	c.shell, c.mounts = envoyRoot(t)
	if err := os.RemoveAll(filepath.Join(c.shell, "run")); err != nil {
		t.Fatal(err)
	}
	target := c.project.Services["envoy"].Build.Target
	seed, envoy := rootOf(t, "seed"), rootOf(t, target)
	if target != "envoy" {
		c.env = addModule(t, target, c.shell)
	}
	for _, path := range []string{seed + "/etc/phantom", envoy + "/etc/envoy", envoy + "/run"} { // cp keeps their modes
		target := filepath.Join(c.shell, strings.TrimPrefix(strings.TrimPrefix(path, seed), envoy))
		_ = os.RemoveAll(target)
		command(t, "cp", "-a", path, target)
	}
	for _, dir := range []string{"demo", "run/authzd", "run/keyd", "run/keyctl"} {
		if err := os.MkdirAll(filepath.Join(c.shell, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.mounts = append(c.mounts, mount{filepath.Join(seed, "usr/local/bin/keyctl"), "/run/keyctl/keyctl", true})
	hosts := map[string][]string{}
	for _, name := range c.project.ServiceNames() {
		hosts[name] = nil
	}
	c.cluster = newCluster(t, hosts)
	return c
}

// The services start in the order of their dependencies, pass their health checks, and get the expected answers with the demo
// keys, with authzd and with the module in place of it.
func TestComposeRuns(t *testing.T) {
	for name, files := range composeVariants {
		t.Run(name, func(t *testing.T) { composeRuns(t, files) })
	}
}

func composeRuns(t *testing.T, files []string) {
	t.Helper()
	c := newComposed(t, files)
	seed := c.up("seed")
	c.finished(seed)
	want := []string{"200", "401", "403", "401", "401", "403", "403", "200"}
	var got []string
	for _, match := range regexp.MustCompile(`\((\d{3})\)`).FindAllStringSubmatch(seed.output(), -1) {
		got = append(got, match[1])
	}
	if !slices.Equal(got, want) || !strings.Contains(seed.output(), "\nready: http://localhost:10000\n") {
		t.Errorf("answers %v, want %v and then the ready line:\n%s", got, want, seed.output())
	}

	env := c.run(c.project.Services["env"], nil)
	c.finished(env)
	variables := map[string]string{}
	for _, match := range regexp.MustCompile(`(?m)^(\w+)='([^']+)'$`).FindAllStringSubmatch(env.output(), -1) {
		variables[match[1]] = match[2]
		if name := match[1]; name != "PHANTOM_URL" && strings.Contains(seed.output(), match[2]) {
			t.Errorf("the log shows the value of %s", name)
		}
	}
	for _, name := range []string{"PHANTOM_URL", "PHANTOM_KEY", "PHANTOM_CHAT_KEY", "PHANTOM_REVOKED_KEY", "PHANTOM_EXPIRED_KEY", "PHANTOM_TERMINATED_KEY", "PHANTOM_SESSION"} {
		if variables[name] == "" {
			t.Errorf("demo.env has no %s:\n%s", name, env.output())
		}
	}
	if status, body := c.cluster.get(t, "envoy", "/api/v1/chat", "Authorization: Bearer "+variables["PHANTOM_CHAT_KEY"]); status != 200 {
		t.Errorf("from outside: %d %s", status, body)
	}

	list := c.run(c.project.Services["keyctl"], []string{"account", "list"})
	c.finished(list)
	if !strings.Contains(list.output(), "Demo, terminated") {
		t.Errorf("keyctl account list:\n%s", list.output())
	}
	again := c.run(c.project.Services["seed"], nil) // as in a second `docker compose up` with the same volumes
	c.finished(again)
	if !strings.Contains(again.output(), "\nready: ") {
		t.Errorf("the second time:\n%s", again.output())
	}
	for _, name := range []string{"envoy", "authzd", "keyd", "echo"} {
		if k := c.running[name]; k != nil { // there is no authzd with the module
			k.stop(12 * time.Second)
		}
	}
}
