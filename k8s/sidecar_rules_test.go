package k8s

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

// application checks that clients reach the application only through Envoy, and that its authzd reaches keyd.
func application(m *manifests, report report) {
	keyAPI := m.server("authzd.yaml", report).KeyAPI
	if !strings.HasPrefix(keyAPI.URL, "https://keyd.phantom.svc:") || keyAPI.TLS["ca_file"] == "" || keyAPI.TLS["cert_file"] == "" {
		report("authzd.yaml", "key_api.url must be https://keyd.phantom.svc:PORT, with tls.ca_file and tls.cert_file")
	}
	if slices.ContainsFunc(m.envoy(report).Static.Clusters, func(c envoyCluster) bool { return c.Name == "owners" }) {
		report("envoy.yaml", "must have no cluster owners: only the gateway makes owners' requests")
	}
	p, _ := m.pod("shop")
	if c := p.container("application"); len(c.Ports) > 0 || !slices.ContainsFunc(c.Command, func(arg string) bool { return strings.HasPrefix(arg, "127.0.0.1:") }) {
		report("shop/application", "must listen on loopback: it trusts Envoy's headers")
	}
	if preStop(p.container("application")) <= preStop(p.container("envoy")) {
		report("shop/application", "preStop must be longer than Envoy's, which still sends requests")
	}
	own := labels.Set(p.template.Labels)
	if own["phantom.io/sidecar"] != "true" || len(m.namespaces) != 1 || m.namespaces[0].Labels["phantom.io/sidecars"] != "true" {
		report("shop", "the Pods and the namespace must have the labels that keyd's NetworkPolicy admits")
	}
	for port, may := range map[int32]bool{10000: true, 8080: false, 9192: false, 9901: false} {
		if m.ingressAllowed(peer{named("client"), others}, own, port) != may {
			report("NetworkPolicy", "a client reaches port %d: must be %t", port, may)
		}
	}
	keyd := labels.Set{"kubernetes.io/metadata.name": "phantom"}
	if !m.egressAllowedTo(own, peer{named("keyd"), keyd}, 8080) || m.egressAllowedTo(own, peer{named("keyd"), keyd}, 8083) ||
		!m.egressAllowedTo(own, peer{named("kube-dns"), kubeSystem}, 53) || !m.egressToAddress(own, nodeLocalDNS, 53) {
		report("NetworkPolicy", "the Pods must reach DNS and keyd's port for sidecars, and not that for owners")
	}
}

func TestRulesDetectMutationsOfApplication(t *testing.T) {
	proven := inApplication.detects(t, kustomize(t, "overlays/sidecar"), []patch{
		{"no authzd", "Deployment shop", "native-sidecar", `remove POD/initContainers`},
		{"authzd starts after Envoy", "Deployment shop", "native-sidecar", `move POD/containers/- "AUTHZD"`},
		{"Envoy starts before authzd is ready", "Deployment shop", "native-sidecar", `remove AUTHZD/startupProbe`},
		{"stuck authzd stays in service", "Deployment shop", "native-sidecar", `remove AUTHZD/readinessProbe`},
		{"readiness of the listener", "Deployment shop", "native-sidecar", `replace AUTHZD/readinessProbe {"tcpSocket":{"port":"authzd-admin"}}`},
		{"stuck authzd is restarted late", "Deployment shop", "probes", `replace AUTHZD/livenessProbe/periodSeconds 10`},
		{"restart in an outage", "Deployment shop", "probes", `replace AUTHZD/livenessProbe/httpGet/path "/readyz"`},
		{"Envoy without the socket", "Deployment shop", "socket", `remove MAIN/volumeMounts/0`},
		{"application can replace the socket", "Deployment shop", "socket", `remove MAIN/volumeMounts/0/readOnly`},
		{"missing volume", "Deployment shop", "references", `remove POD/volumes/0`},
		{"token in Envoy", "Deployment shop", "secret-access", `add MAIN/volumeMounts/- {"name":"authzd","mountPath":"/etc/authzd"}`},
		{"token in the application", "Deployment shop", "secret-access", `add POD/containers/1/volumeMounts [{"name":"authzd","mountPath":"/etc/authzd"}]`},
		{"application on the network", "Deployment shop", "application", `replace POD/containers/1/command ["echo","-listen","[::]:8080"]`},
		{"application stops first", "Deployment shop", "application", `remove POD/containers/1/lifecycle`},
		{"no label for keyd", "Deployment shop", "application", `remove /spec/template/metadata/labels/phantom.io~1sidecar`},
		{"namespace without the label", "Namespace shop", "application", `remove /metadata/labels/phantom.io~1sidecars`},
		{"application's port open", "NetworkPolicy shop", "application", `add /spec/ingress/0/ports/- {"port":8080}`},
		{"keyd of another namespace", "NetworkPolicy shop", "application", `replace /spec/egress/1/to/0/namespaceSelector/matchLabels {"kubernetes.io/metadata.name":"other"}`},
		{"owners' port open", "NetworkPolicy shop", "application", `remove /spec/egress/1/ports`},
		{"Envoy without a preStop", "Deployment shop", "gateway-rollout", `remove MAIN/lifecycle`},
		{"grace period too short", "Deployment shop", "gateway-rollout", `replace POD/terminationGracePeriodSeconds 10`},
		{"memory limit below Envoy's heap", "Deployment shop", "envoy-memory", `replace MAIN/resources/limits/memory "640Mi"`},
		{"port of the monitor not declared", "Deployment shop", "envoy-listeners", `replace MAIN/ports/1/containerPort 9903`},
	}, []edit{
		{"key API without TLS", "authzd", "application", "authzd.yaml", "https://", "http://"},
		{"key API without a certificate", "authzd", "application", "authzd.yaml", ", cert_file: tls/tls.crt, key_file: tls/tls.key", ""},
		{"owners' requests", "envoy", "application", "envoy.yaml", "- name: upstream ", "- name: owners "},
		{"configuration differs from the repository", "envoy", "configuration", "envoy.yaml", "failure_mode_allow: false", "failure_mode_allow: true"},
		{"useless drain_delay", "authzd", "gateway-rollout", "authzd.yaml", "key_api:", "drain_delay: 5s\nkey_api:"},
	})
	if !proven["application"] {
		t.Error("missing mutation for the rule application")
	}
}
