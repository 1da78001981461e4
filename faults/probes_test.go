package faults_test

import (
	"context"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// probe is a probe of a container in Kubernetes.
type probe struct {
	HTTP    struct{ Path string } `yaml:"httpGet"`
	Timeout time.Duration         `yaml:"-"`
	Seconds int                   `yaml:"timeoutSeconds"`
}

// sidecarProbes returns those of authzd in k8s/components/sidecar.
func sidecarProbes(t *testing.T) (readiness, liveness probe) {
	t.Helper()
	text, err := os.ReadFile("../k8s/components/sidecar/authzd-container.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Readiness probe `yaml:"readinessProbe"`
						Liveness  probe `yaml:"livenessProbe"`
					} `yaml:"initContainers"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	c := doc.Spec.Template.Spec.Containers[0]
	for _, p := range []*probe{&c.Readiness, &c.Liveness} {
		p.Timeout = time.Duration(p.Seconds) * time.Second
	}
	return c.Readiness, c.Liveness
}

// succeeds sends the request of the probe as the kubelet does: each time over a new connection, within the timeout.
func (p probe) succeeds(t *testing.T, admin string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), p.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, admin+p.HTTP.Path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode < http.StatusBadRequest
}

// TestProbesOfSidecar: the kubelet takes a frozen authzd out of service and restarts it, but not one whose key API is away. A
// connection would succeed in both cases, because the kernel accepts it.
func TestProbesOfSidecar(t *testing.T) {
	t.Parallel()
	s := newFixture(t, nil)
	authzd := s.authzd("authzd", nil)
	readiness, liveness := sidecarProbes(t)
	eventually(t, "ready", func() error {
		if !readiness.succeeds(t, authzd.Admin()) {
			return context.DeadlineExceeded // try again
		}
		return nil
	})
	s.keyd.Kill()
	eventually(t, "outage", func() error { return metricIs(t, authzd, `phantom_authz_key_api_down{by="poll"}`, 1) })
	if !readiness.succeeds(t, authzd.Admin()) || !liveness.succeeds(t, authzd.Admin()) {
		t.Error("a probe fails in an outage of the key API")
	}
	if err := authzd.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if readiness.succeeds(t, authzd.Admin()) || liveness.succeeds(t, authzd.Admin()) {
		t.Error("a probe succeeds while authzd is frozen")
	}
	if err := authzd.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if !liveness.succeeds(t, authzd.Admin()) {
		t.Error("the probe fails after authzd continues")
	}
}
