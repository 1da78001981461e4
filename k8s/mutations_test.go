package k8s

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// patch is a mistake in an object, with the rule that must detect it; "strict" is the decoder. The patch is an operation of JSON
// Patch: its name, its path, and its value or origin. POD, AUTHZD and MAIN are paths of a Pod template.
type patch struct{ about, object, rule, patch string }

// monitored is the demo with PodMonitors.
const monitored = "namespace: phantom\nresources: [../demo]\ncomponents: [../../components/monitoring]\n"

// patches and edits are mistakes in it.
var patches = []patch{
	{"misspelt field", "Deployment gateway", "strict", `add /spec/replica 2`},
	{"field of the wrong type", "Deployment gateway", "strict", `replace /spec/replicas "two"`},
	{"kind of another version", "PodDisruptionBudget gateway", "strict", `replace /apiVersion "policy/v1beta1"`},
	{"privilege escalation", "Deployment gateway", "pod-security", `replace MAIN/securityContext/allowPrivilegeEscalation true`},
	{"capabilities kept", "StatefulSet keyd", "pod-security", `remove MAIN/securityContext/capabilities`},
	{"no seccomp profile", "StatefulSet keyd", "pod-security", `remove POD/securityContext/seccompProfile`},
	{"root", "Deployment gateway", "pod-security", `replace POD/securityContext/runAsUser 0`},
	{"host network", "Deployment gateway", "pod-security", `add POD/hostNetwork true`},
	{"socket in a directory of the host", "Deployment gateway", "pod-security", `replace POD/volumes/0 {"name":"sockets","hostPath":{"path":"/run/phantom"}}`},
	{"writable root", "Deployment gateway", "pod-security", `replace AUTHZD/securityContext/readOnlyRootFilesystem false`},
	{"namespace without Pod security", "Namespace phantom", "pod-security", `remove /metadata/labels/pod-security.kubernetes.io~1enforce`},
	{"API token", "Deployment gateway", "no-api-token", `remove POD/automountServiceAccountToken`},
	{"no liveness probe", "StatefulSet keyd", "probes", `remove MAIN/livenessProbe`},
	{"liveness of /readyz", "Deployment gateway", "probes", `replace AUTHZD/livenessProbe/httpGet/path "/readyz"`},
	{"probe of a missing port", "Deployment gateway", "probes", `replace MAIN/readinessProbe/httpGet/port "https"`},
	{"readiness of an Envoy that is stuck", "Deployment gateway", "probes", `replace MAIN/readinessProbe {"tcpSocket":{"port":"http"}}`},
	{"start without /ready", "Deployment gateway", "probes", `replace MAIN/startupProbe {"tcpSocket":{"port":"http"}}`},
	{"restart of a draining Envoy", "Deployment gateway", "probes", `replace MAIN/livenessProbe {"httpGet":{"path":"/ready","port":"envoy-monitor"}}`},
	{"port of the monitor not declared", "Deployment gateway", "envoy-listeners", `replace MAIN/ports/1/containerPort 9903`},
	{"no memory limit", "StatefulSet keyd", "resources", `remove MAIN/resources/limits`},
	{"CPU limit", "Deployment gateway", "resources", `add AUTHZD/resources/limits/cpu "1"`},
	{"memory limit raised without GOMEMLIMIT", "Deployment gateway", "resources", `replace AUTHZD/resources/limits/memory "1Gi"`},
	{"image without a fixed tag", "Deployment gateway", "images", `replace MAIN/image "envoyproxy/envoy:latest"`},
	{"missing ConfigMap", "Deployment gateway", "references", `replace POD/volumes/2/configMap/name "envoy-old"`},
	{"missing volume", "StatefulSet keyd", "references", `replace MAIN/volumeMounts/2/name "config"`},
	{"Service without Pods", "Service keyd", "services", `replace /spec/selector {"app":"keyd"}`},
	{"Service of a missing port", "Service keyd", "services", `replace /spec/ports/0/targetPort "operators"`},
	{"key API outside the cluster", "Service keyd", "services", `add /spec/type "LoadBalancer"`},
	{"secrets readable by all users", "StatefulSet keyd", "secrets", `remove POD/volumes/1/projected/defaultMode`},
	{"token in the environment", "Deployment gateway", "secrets", `add AUTHZD/env/- {"name":"TOKEN","valueFrom":{"secretKeyRef":{"name":"key-api-token","key":"token"}}}`},
	{"Secret without its key", "Secret operator-tokens", "secrets", `remove /data/alice`},
	{"startup probe of keyd's /readyz", "StatefulSet keyd", "probes", `replace MAIN/startupProbe/httpGet/path "/readyz"`},
	{"operator's token in authzd", "Deployment gateway", "secret-access", `add POD/volumes/1/projected/sources/- {"secret":{"name":"operator-tokens"}}`},
	{"sidecar's token in Envoy", "Deployment gateway", "secret-access", `add MAIN/volumeMounts/- {"name":"authzd","mountPath":"/etc/authzd"}`},
	{"one certificate for authzd and Envoy", "Deployment gateway", "secret-access", `replace POD/volumes/3/secret/secretName "authzd-tls"`},
	{"keyd's certificate in the gateway", "Deployment gateway", "secret-access", `replace POD/volumes/1/projected/sources/2/secret/name "keyd-tls"`},
	{"init container that must exit", "Deployment gateway", "native-sidecar", `remove AUTHZD/restartPolicy`},
	{"authzd beside Envoy", "Deployment gateway", "native-sidecar", `move POD/containers/- "AUTHZD"`},
	{"Envoy starts before authzd is ready", "Deployment gateway", "native-sidecar", `remove AUTHZD/startupProbe`},
	{"sidecar with a preStop", "Deployment gateway", "native-sidecar", `add AUTHZD/lifecycle {"preStop":{"sleep":{"seconds":5}}}`},
	{"stuck authzd stays in service", "Deployment gateway", "native-sidecar", `remove AUTHZD/readinessProbe`},
	{"stuck authzd is restarted late", "Deployment gateway", "probes", `replace AUTHZD/livenessProbe/failureThreshold 6`},
	{"stuck authzd gets a minute to stop", "Deployment gateway", "probes", `remove AUTHZD/livenessProbe/terminationGracePeriodSeconds`},
	{"Envoy without a preStop", "Deployment gateway", "gateway-rollout", `remove MAIN/lifecycle`},
	{"preStop longer than the grace period", "Deployment gateway", "gateway-rollout", `replace MAIN/lifecycle/preStop/exec/command ["sleep 55"]`},
	{"grace period of keyd too short", "StatefulSet keyd", "keyd-store", `replace POD/terminationGracePeriodSeconds 10`},
	{"grace period of the gateway too short", "Deployment gateway", "gateway-rollout", `replace POD/terminationGracePeriodSeconds 10`},
	{"budget that blocks every drain", "PodDisruptionBudget gateway", "gateway-rollout", `replace /spec/maxUnavailable 0`},
	{"budget without Pods", "PodDisruptionBudget gateway", "gateway-rollout", `replace /spec/selector/matchLabels {"app":"gateway"}`},
	{"socket in two directories", "Deployment gateway", "socket", `replace MAIN/volumeMounts/0/mountPath "/sockets"`},
	{"Envoy can replace the socket", "Deployment gateway", "socket", `remove MAIN/volumeMounts/0/readOnly`},
	{"two writers", "StatefulSet keyd", "keyd-store", `replace /spec/replicas 2`},
	{"keys lost with the Pod", "StatefulSet keyd", "keyd-store", `replace MAIN/volumeMounts/0/name "sockets"`},
	{"no default policy", "NetworkPolicy default-deny", "network", `replace /spec/podSelector {"matchLabels":{"app":"x"}}`},
	{"default policy without egress", "NetworkPolicy default-deny", "network", `replace /spec/policyTypes ["Ingress"]`},
	{"keyd open to the namespace", "NetworkPolicy keyd", "network", `replace /spec/ingress/0/from/0/podSelector {}`},
	{"keyd open to all namespaces", "NetworkPolicy keyd", "network", `add /spec/ingress/0/from/0/namespaceSelector {}`},
	{"keyd open to all Pods", "NetworkPolicy keyd", "network", `remove /spec/ingress/0/from`},
	{"all ports of keyd open to the gateway", "NetworkPolicy keyd", "network", `remove /spec/ingress/0/ports`},
	{"keyd open to all Pods beside sidecars", "NetworkPolicy keyd", "network", `remove /spec/ingress/2/from/0/podSelector`},
	{"keyd open to sidecars of all namespaces", "NetworkPolicy keyd", "network", `replace /spec/ingress/2/from/0/namespaceSelector {}`},
	{"owners' port open to sidecars", "NetworkPolicy keyd", "network", `remove /spec/ingress/2/ports`},
	{"owners' port closed", "NetworkPolicy keyd", "network", `remove /spec/ingress/0/ports/1`},
	{"gateway cannot reach keyd", "NetworkPolicy gateway", "network", `remove /spec/egress/1`},
	{"metrics open to all Pods", "NetworkPolicy gateway", "network", `remove /spec/ingress/1/from`},
	{"Envoy's metrics closed", "NetworkPolicy gateway", "network", `remove /spec/ingress/1/ports/1`},
	{"DNS closed", "NetworkPolicy gateway", "network", `remove /spec/egress/0`},
	{"NodeLocal DNSCache closed", "NetworkPolicy gateway", "network", `remove /spec/egress/0/to/1`},
	{"all ports of the node open", "NetworkPolicy gateway", "network", `remove /spec/egress/0/ports`},
	{"keyd with egress", "NetworkPolicy keyd", "network", `add /spec/egress [{}]`},
	{"authzd's certificate in Envoy", "Secret envoy-tls", "client-names", `replace /data/tls.crt "CERTIFICATE"`},
	{"Service of one family", "Service keyd", "dual-stack", `remove /spec/ipFamilyPolicy`},
	{"misspelt field of a PodMonitor", "PodMonitor envoy", "strict", `add /spec/podMetricEndpoints []`},
	{"interval that is not a duration", "PodMonitor envoy", "strict", `replace /spec/podMetricsEndpoints/0/interval "often"`},
	{"PodMonitor of no Pods", "PodMonitor envoy", "strict", `remove /spec/selector`},
	{"Envoy without monitor", "PodMonitor envoy", "monitoring", `replace /spec/podMetricsEndpoints []`},
	{"page of authzd at Envoy", "PodMonitor envoy", "monitoring", `replace /spec/podMetricsEndpoints/0/path "/metrics"`},
	{"port without metrics", "PodMonitor authzd", "monitoring", `replace /spec/podMetricsEndpoints/0/port "http"`},
	{"PodMonitor of other Pods", "PodMonitor keyd", "monitoring", `replace /spec/selector/matchLabels {"app":"keyd"}`},
	{"keyd's metrics closed", "NetworkPolicy keyd", "monitoring", `remove /spec/ingress/1`},
	{"memory limit below Envoy's heap", "Deployment gateway", "envoy-memory", `replace MAIN/resources/limits/memory "640Mi"`},
}

// edit is a mistake in a file of a ConfigMap, with the rule that must detect it.
type edit struct{ about, configMap, rule, file, from, to string }

var edits = []edit{
	{"useless drain_delay", "authzd", "gateway-rollout", "authzd.yaml", "key_api:", "drain_delay: 5s\nkey_api:"},
	{"drain longer than the grace period", "authzd", "gateway-rollout", "authzd.yaml", "key_api:", "drain: 1m\nkey_api:"},
	{"configuration differs from the repository", "envoy", "configuration", "envoy.yaml", "failure_mode_allow: false", "failure_mode_allow: true"},
	{"listeners without client certificates", "keyd", "mutual-tls", "keyd.yaml", ", client_ca_file: tls/ca.crt", ""},
	{"key API without TLS", "authzd", "mutual-tls", "authzd.yaml", "https://", "http://"},
	{"Envoy does not verify keyd", "envoy", "mutual-tls", "envoy.yaml", "validation_context_sds_secret_config:", "x:"},
	{"any client certificate", "keyd", "client-names", "keyd.yaml", "  client_names: {sidecars: [authzd], owners: [envoy]}\n", ""},
	{"any client certificate for owners", "keyd", "client-names", "keyd.yaml", ", owners: [envoy]", ""},
	{"authzd accepted for owners", "keyd", "client-names", "keyd.yaml", "owners: [envoy]", "owners: [envoy, authzd]"},
	{"listener on IPv4 only", "keyd", "dual-stack", "keyd.yaml", "owners: tcp://[::]", "owners: tcp://0.0.0.0"},
	{"admin listener on IPv4 only", "authzd", "dual-stack", "authzd.yaml", "tcp://[::]", "tcp://0.0.0.0"},
	{"Envoy on IPv4 only", "envoy", "envoy-listeners", "envoy.yaml", `address: "::", port_value: 10000, ipv4_compat: true`, "address: 0.0.0.0, port_value: 10000"},
	{"any name in keyd's certificate", "envoy", "mutual-tls", "sds-ca.yaml", "{san_type: DNS, matcher: {exact: keyd}}", ""},
}

func TestRulesDetectMutations(t *testing.T) {
	proven := withAuthzd.detects(t, kustomize(t, overlay(t, monitored)), patches, edits)
	for _, rule := range withAuthzd.rules {
		if !proven[rule.name] {
			t.Errorf("missing mutation for the rule %s", rule.name)
		}
	}
}

// detects runs the mutations and returns the rules that have one.
func (v variant) detects(t *testing.T, text []byte, patches []patch, edits []edit) (proven map[string]bool) {
	t.Helper()
	proven = map[string]bool{}
	run := func(about, object, rule string, mutate func(t *testing.T, docs []map[string]any, i int)) {
		proven[rule] = true
		t.Run(about, func(t *testing.T) {
			docs := documents(t, text)
			mutate(t, docs, find(t, docs, object))
			mutant, err := decode(docs)
			switch {
			case rule == "strict" && err == nil:
				t.Fatal("decoded without an error")
			case rule == "strict":
			case err != nil:
				t.Fatal(err)
			case !slices.ContainsFunc(v.findings(mutant), func(f finding) bool { return f.rule == rule }):
				t.Fatalf("not detected by %s; violations: %v", rule, v.findings(mutant))
			}
		})
	}
	for _, m := range patches {
		run(m.about, m.object, m.rule, func(t *testing.T, docs []map[string]any, i int) {
			certificate := "" // not every overlay has the Secret
			if strings.Contains(m.patch, "CERTIFICATE") {
				certificate = authzdCertificate(t, docs)
			}
			docs[i] = patched(t, docs[i], strings.Replace(m.patch, "CERTIFICATE", certificate, 1))
		})
	}
	for _, m := range edits {
		run(m.about, "ConfigMap "+m.configMap, m.rule, func(t *testing.T, docs []map[string]any, i int) {
			data := docs[i]["data"].(map[string]any)
			before := data[m.file].(string)
			if data[m.file] = strings.Replace(before, m.from, m.to, 1); data[m.file] == before {
				t.Fatalf("%s does not contain %q", m.file, m.from)
			}
		})
	}
	return proven
}

// authzdCertificate returns the certificate in the demo's Secret, in base64.
func authzdCertificate(t *testing.T, docs []map[string]any) string {
	t.Helper()
	secret := docs[find(t, docs, "Secret authzd-tls")]
	return strings.Join(strings.Fields(secret["data"].(map[string]any)["tls.crt"].(string)), "")
}

// find returns the index of the object "KIND NAME". The name of a ConfigMap may be followed by a hash.
func find(t *testing.T, docs []map[string]any, object string) int {
	t.Helper()
	i := slices.IndexFunc(docs, func(doc map[string]any) bool {
		name := doc["kind"].(string) + " " + doc["metadata"].(map[string]any)["name"].(string)
		return name == object || doc["kind"] == "ConfigMap" && strings.HasPrefix(name, object+"-")
	})
	if i < 0 {
		t.Fatalf("missing %s", object)
	}
	return i
}

func patched(t *testing.T, doc map[string]any, patch string) map[string]any {
	t.Helper()
	const pod = "/spec/template/spec"
	patch = strings.NewReplacer("AUTHZD", pod+"/initContainers/0", "MAIN", pod+"/containers/0", "POD", pod).Replace(patch)
	op, rest, _ := strings.Cut(patch, " ")
	path, value, _ := strings.Cut(rest, " ")
	operation := map[string]any{"op": op, "path": path}
	if op == "move" {
		operation["from"] = json.RawMessage(value)
	} else if value != "" {
		operation["value"] = json.RawMessage(value)
	}
	operations, err := json.Marshal([]any{operation})
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := jsonpatch.DecodePatch(operations)
	if err != nil {
		t.Fatal(err)
	}
	before, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	after, err := decoded.Apply(before)
	if err != nil {
		t.Fatal(err)
	}
	var result map[string]any
	if err := json.Unmarshal(after, &result); err != nil {
		t.Fatal(err)
	}
	return result
}
