package k8s

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// meshOverlay is an overlay whose gateway belongs to a mesh.
type meshOverlay struct {
	name    string
	gateway peer   // the mesh's Envoys
	config  string // the folder of authzd.yaml
	own     []rule
}

var (
	istioGateway = peer{
		labels.Set{"istio": "ingressgateway"}, labels.Set{"kubernetes.io/metadata.name": "istio-ingress"},
	}
	meshOverlays = []meshOverlay{
		{"istio", istioGateway, "overlays/istio/config", slices.Concat(istioRules, []rule{
			{"preflights", func(m *manifests, report report) { checkedRequests(m, isPreflight, report) }},
		})},
		{"istio-envoyfilter", istioGateway, "overlays/istio/config", slices.Concat(istioRules, []rule{
			{"all-checked", func(m *manifests, report report) {
				checkedRequests(m, func(optionsRequest) bool { return false }, report)
			}},
			{"envoyfilter", envoyFilter},
		})},
		{"envoy-gateway", peer{
			labels.Set{"gateway.envoyproxy.io/owning-gateway-namespace": "phantom", "gateway.envoyproxy.io/owning-gateway-name": "api"},
			labels.Set{"kubernetes.io/metadata.name": "envoy-gateway-system"},
		}, "overlays/envoy-gateway/config", gatewayRules},
	}
)

// variant returns the rules of the overlay.
func (o meshOverlay) variant() variant {
	v := variant{readers: map[string][]string{
		"key-api-token":   {"authz/authzd", "keyd/keyd"},
		"operator-tokens": {"keyd/keyd"},
		"authzd-tls":      {"authz/authzd"},
		"authz-tls":       {"authz/authzd"},
		"keyd-tls":        {"keyd/keyd"},
	}}
	v.rules = slices.Concat([]rule{
		{"pod-security", podSecurity},
		{"no-api-token", noAPIToken},
		{"probes", probes},
		{"resources", resources},
		{"images", images},
		{"references", references},
		{"services", services},
		{"secrets", secrets},
		{"keyd-store", forPod("keyd", keydStore)},
		{"client-names", clientNames},
		{"dual-stack", dualStack},
		{"secret-access", v.secretAccess},
		{"no-gateway", noGateway},
		{"central-rollout", forPod("authz", centralRollout)},
		{"central-tls", centralTLS},
		{"mesh-network", o.network},
		{"mesh-configuration", o.configuration},
	}, o.own)
	return v
}

// documents returns the objects of the overlay and, for Istio, istiod's values.
func (o meshOverlay) documents(t testing.TB) []map[string]any {
	t.Helper()
	docs := documents(t, kustomize(t, filepath.Join("overlays", o.name)))
	if strings.HasPrefix(o.name, "istio") {
		text, err := os.ReadFile("overlays/istio/mesh-config.yaml")
		if err != nil {
			t.Fatal(err)
		}
		values := documents(t, text)[0]
		values["kind"], values["metadata"] = istiodValues, map[string]any{"name": "istiod"}
		docs = append(docs, values)
	}
	return docs
}

func TestMeshOverlaysFollowRules(t *testing.T) {
	for _, o := range meshOverlays {
		m, err := decode(o.documents(t))
		if err != nil {
			t.Fatalf("%s: %v", o.name, err)
		}
		for _, f := range o.variant().findings(m) {
			t.Errorf("%s: %s", o.name, f)
		}
	}
}

func TestAuthzdAcceptsMeshConfiguration(t *testing.T) {
	secrets := load(t, demo(t)).secrets
	for _, s := range secrets {
		if s.Name == "keyd-tls" { // any server certificate
			server := s.DeepCopy()
			server.Name = "authz-tls"
			secrets = append(secrets, server)
		}
	}
	for _, o := range meshOverlays {
		m, err := decode(o.documents(t))
		if err != nil {
			t.Fatal(err)
		}
		m.secrets = secrets
		check(t, "authzd", filepath.Join(m.volumes(t, m.mustPod(t, "authz"))["authzd"], "authzd.yaml"))
	}
}

// noGateway checks that the base's gateway is gone: it would be a second way to the upstream.
func noGateway(m *manifests, report report) {
	if _, found := m.pod("gateway"); found {
		report("gateway", "must be absent: the mesh has its own")
	}
	if m.files()["envoy.yaml"] != "" {
		report("ConfigMap envoy", "must be absent: the mesh configures Envoy")
	}
}

// centralRollout checks that an update or a restart of authzd loses no check.
func centralRollout(m *manifests, p pod, report report) {
	var config struct {
		DrainDelay string `yaml:"drain_delay"`
	}
	readYAML(m, "authzd.yaml", &config, report)
	if delay, err := time.ParseDuration(config.DrainDelay); err != nil || delay < 5*time.Second {
		report("authzd.yaml", "drain_delay is %q: must be at least 5s, in which the Envoys learn that the Pod stops", config.DrainDelay)
	}
	stopsIn(p, stopTime(func(format string, args ...any) { report("authzd.yaml", format, args...) }, m.files()["authzd.yaml"]), report)
	if probePath(p.container("authzd").ReadinessProbe) != "/readyz" {
		report("authz", "readinessProbe must request /readyz")
	}
	if !slices.ContainsFunc(m.budgets, func(b *policyv1.PodDisruptionBudget) bool {
		return selects(b.Spec.Selector, p.template.Labels) && b.Spec.MaxUnavailable != nil && b.Spec.MaxUnavailable.IntValue() > 0
	}) {
		report("authz", "missing PodDisruptionBudget that allows a disruption")
	}
	for _, d := range m.deployments {
		r := d.Spec.Strategy.RollingUpdate
		if d.Name == "authz" && (r == nil || r.MaxUnavailable == nil || r.MaxUnavailable.IntValue() != 0 || d.Spec.Replicas == nil || *d.Spec.Replicas < 2) {
			report("authz", "must have two replicas or more, and maxUnavailable 0")
		}
	}
}

// centralTLS checks that only clients with a certificate ask authzd, and that it and keyd authenticate each other.
func centralTLS(m *manifests, report report) {
	var authzd struct {
		Listen struct {
			Check []string
			TLS   map[string]string
		}
		KeyAPI struct {
			URL string
			TLS map[string]string
		} `yaml:"key_api"`
	}
	readYAML(m, "authzd.yaml", &authzd, report)
	if !slices.Equal(authzd.Listen.Check, []string{"tcp://[::]:9191"}) || authzd.Listen.TLS["client_ca_file"] == "" {
		report("authzd.yaml", "listen.check must be tcp://[::]:9191, with listen.tls.client_ca_file")
	}
	if tls := authzd.KeyAPI.TLS; !strings.HasPrefix(authzd.KeyAPI.URL, "https://keyd:") || tls["ca_file"] == "" || tls["cert_file"] == "" {
		report("authzd.yaml", "key_api.url must be https://keyd:PORT, with tls.ca_file and tls.cert_file")
	}
	if m.server("keyd.yaml", report).Listen.TLS["client_ca_file"] == "" {
		report("keyd.yaml", "listen.tls.client_ca_file must be set")
	}
	for _, s := range m.services {
		if s.Name == "authz" && !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
			return p.Name == "grpc" && p.AppProtocol != nil && *p.AppProtocol == "grpc" && p.Port == 9191
		}) {
			report("Service authz", "must have the port 9191 with the name and appProtocol grpc: otherwise Envoy may use HTTP/1.1")
		}
	}
}

// network evaluates the NetworkPolicies as the cluster does.
func (o meshOverlay) network(m *manifests, report report) {
	authz, keyd := named("authz"), named("keyd")
	for _, c := range []struct {
		what string
		from peer
		to   labels.Set
		port int32
		may  bool
	}{
		{"the mesh's gateway", o.gateway, authz, 9191, true},
		{"the mesh's gateway", o.gateway, authz, 9192, false},
		{"the mesh's gateway", o.gateway, keyd, 8083, true},
		{"the mesh's gateway", o.gateway, keyd, 8080, false},
		{"a Pod of the gateway's labels in another namespace", peer{o.gateway.pod, others}, authz, 9191, false},
		{"a Pod of the gateway's labels in another namespace", peer{o.gateway.pod, others}, keyd, 8083, false},
		{"another Pod of the gateway's namespace", peer{named("client"), o.gateway.namespace}, authz, 9191, false},
		{"another Pod of the gateway's namespace", peer{named("client"), o.gateway.namespace}, keyd, 8083, false},
		{"authzd", peer{authz, phantom}, keyd, 8080, true},
		{"authzd", peer{authz, phantom}, keyd, 8083, false},
		{"another Pod", peer{named("echo"), phantom}, keyd, 8080, false},
		{"another Pod", peer{named("echo"), phantom}, authz, 9191, false},
		{"monitoring", peer{named("prometheus"), monitoring}, authz, 9192, true},
		{"monitoring", peer{named("prometheus"), monitoring}, keyd, 8082, true},
	} {
		reached := m.ingressAllowed(c.from, c.to, c.port)
		if c.may && c.from.namespace.Get("kubernetes.io/metadata.name") == "phantom" {
			reached = reached && m.egressAllowed(c.from.pod, c.to, c.port)
		}
		if reached != c.may {
			report(c.to.String(), "%s reaches port %d: %t, must be %t", c.what, c.port, reached, c.may)
		}
	}
}

// configuration checks that the deployed files are those of the repository.
func (o meshOverlay) configuration(m *manifests, report report) {
	for name, folder := range map[string]string{"authzd.yaml": o.config, "keyd.yaml": "base/config"} {
		own, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			panic(err)
		}
		if text := m.files()[name]; text == "" || text != string(own) {
			report("ConfigMap", "%s differs from the file of the repository", name)
		}
	}
}
