package envoy_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

const central = "../k8s/components/central/"

// centralStack is an Envoy of k8s/components/central without retries, and two authzd with mutual TLS.
type centralStack struct {
	*proxy
	config    testbed.Config // of each authzd
	addresses []string       // of their listeners for checks
	replicas  []*testbed.Process
}

// startCentral starts the stack. Differences from the manifests are addresses, times that only a busy machine would exceed, and
// drain_delay.
func startCentral(t *testing.T, drainDelay string) *centralStack {
	t.Helper()
	env, dir := shared(t), centralFiles(t)
	addresses, err := testbed.FreeAddresses(2)
	if err != nil {
		t.Fatal(err)
	}
	tls := func(name, file string) string { return filepath.Join(dir, "secrets", name+"."+file) }
	c := &centralStack{addresses: addresses, config: testbed.Config{"drain_delay": drainDelay}}
	for i := range addresses {
		c.replicas = append(c.replicas, nil)
		c.start(t, env, i, testbed.Config{"cert_file": tls("authzd", "crt"), "key_file": tls("authzd", "key"), "client_ca_file": filepath.Join(dir, "secrets", "ca.crt")})
	}
	deployed, err := os.ReadFile(central + "envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	authz := cluster(decode(t, []byte(strings.ReplaceAll(string(deployed), "/etc/envoy/", dir+"/"))), "authz")
	c.proxy = env.ownEnvoy(t, setupsOf(t)[0], envoy.Addresses{}, func(config map[string]any) {
		config["node"] = map[string]any{"id": "gateway", "cluster": "gateway"}
		service := httpFilter(config, "envoy.filters.http.ext_authz")["grpc_service"].(map[string]any)
		service["timeout"] = "10s"
		delete(service, "retry_policy")
		clusters := config["static_resources"].(map[string]any)["clusters"].([]any)
		clusters[0] = authz
		authz["type"], authz["connect_timeout"] = "STATIC", "5s"
		delete(authz, "dns_lookup_family")
		authz["health_checks"].([]any)[0].(map[string]any)["timeout"] = "5s"
		endpoints := authz["load_assignment"].(map[string]any)["endpoints"].([]any)[0].(map[string]any)
		endpoints["lb_endpoints"] = []any{}
		for _, address := range addresses {
			var port int
			if _, err := fmt.Sscanf(address, "127.0.0.1:%d", &port); err != nil {
				t.Fatal(err)
			}
			at := map[string]any{"socket_address": map[string]any{"address": "127.0.0.1", "port_value": port}}
			endpoints["lb_endpoints"] = append(endpoints["lb_endpoints"].([]any), map[string]any{"endpoint": map[string]any{"address": at}})
		}
	})
	c.awaitHealthy(t, 2)
	return c
}

// centralFiles returns a folder with the demo's secrets and the SDS files of the component, which name them.
func centralFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	script, err := os.ReadFile("../k8s/overlays/demo/secrets.sh")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "secrets.sh"), script, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(dir, "secrets.sh")).CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh: %v\n%s", err, out)
	}
	secrets := filepath.Join(dir, "secrets")
	paths := strings.NewReplacer("/etc/phantom/tls/tls.", secrets+"/envoy.", "/etc/phantom/tls", secrets)
	for _, file := range []string{"../k8s/base/config/sds-certificate.yaml", central + "sds-authzd-ca.yaml"} {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(paths.Replace(string(text))), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// start starts a replica, with TLS or as before.
func (c *centralStack) start(t *testing.T, env *environment, i int, tls testbed.Config) {
	t.Helper()
	if tls != nil {
		c.config["listen"] = testbed.Config{"tls": tls}
	}
	listen := testbed.Config{
		"check": []string{"tcp://" + c.addresses[i]}, "admin": "tcp://127.0.0.1:0", "tls": c.config["listen"].(testbed.Config)["tls"],
	}
	c.replicas[i] = env.ownAuthzd(t, unique("central"), testbed.Config{"listen": listen, "drain_delay": c.config["drain_delay"]})
}

// awaitHealthy waits until Envoy's health checks succeed for that many replicas.
func (c *centralStack) awaitHealthy(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d healthy replicas", n), func() error {
		text := strings.TrimSpace(string(c.adminPage(t, "/stats?filter=^cluster.authz.membership_healthy$")))
		if want := fmt.Sprintf("cluster.authz.membership_healthy: %d", n); text != want {
			return fmt.Errorf("%s, want %s", text, want)
		}
		return nil
	})
}

// load sends 500 requests/s until stop is called, which returns how many were answered by the upstream and what the others were.
func (c *centralStack) load(t *testing.T) (stop func() (good int, lost map[string]int)) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: 30 * time.Second}
	var mu sync.Mutex
	good, lost := 0, map[string]int{}
	send := func() {
		request, err := http.NewRequest(http.MethodGet, "http://"+c.addr+companion, http.NoBody)
		if err != nil {
			panic(err)
		}
		request.Header.Set("Authorization", "Bearer "+c.env.creds.Chat)
		response, err := client.Do(request)
		what := ""
		if err != nil {
			what = err.Error()
		} else {
			text, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK || err != nil {
				what = fmt.Sprint(response.Status, err, string(text))
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if good++; what != "" {
			good--
			lost[what]++
		}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		var inFlight sync.WaitGroup
		defer inFlight.Wait()
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-tick.C:
				for range 5 {
					inFlight.Go(send)
				}
			case <-done:
				tick.Stop()
				return
			}
		}
	}()
	return func() (int, map[string]int) {
		close(done)
		<-ended
		client.CloseIdleConnections()
		return good, lost
	}
}

// stopReplica sends SIGTERM and waits until the replica has exited.
func (c *centralStack) stopReplica(t *testing.T, i int) {
	t.Helper()
	if code, err := c.replicas[i].Stop(syscall.SIGTERM); err != nil || code != 0 {
		t.Errorf("replica %d: exit code %d, %v", i, code, err)
	}
}

// TestRollingRestartOfCentralAuthzd: Envoy's health checks take a replica out of use while it still answers, so that not even an
// Envoy without retries loses a request.
func TestRollingRestartOfCentralAuthzd(t *testing.T) {
	t.Parallel()
	c := startCentral(t, "4s")
	stop := c.load(t)
	for i := range c.replicas {
		c.stopReplica(t, i)
		c.awaitHealthy(t, 1)
		c.start(t, c.env, i, nil)
		c.awaitHealthy(t, 2)
	}
	good, lost := stop()
	t.Logf("%d requests", good)
	if len(lost) > 0 || good < 1000 {
		t.Errorf("%d requests were answered, lost: %v", good, lost)
	}
}

// TestRestartOfCentralAuthzdWithoutDelay is the control: without drain_delay a restart loses requests.
func TestRestartOfCentralAuthzdWithoutDelay(t *testing.T) {
	t.Parallel()
	c := startCentral(t, "0s")
	stop := c.load(t)
	c.stopReplica(t, 0)
	c.awaitHealthy(t, 1)
	good, lost := stop()
	t.Logf("%d requests, lost: %v", good, lost)
	if len(lost) == 0 {
		t.Errorf("all of %d requests were answered: drain_delay has no effect in the test above", good)
	}
}
