package k8s

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

const (
	gatewayPod = "/spec/template/spec"
	authzdC    = gatewayPod + "/initContainers/0"
	first      = gatewayPod + "/containers/0"
)

// mutations are mistakes in the demo's manifests, each with the rule that must catch it. "strict" is the
// decoder. A patch is JSON 6902; in place of one, edit changes a file of a ConfigMap.
var mutations = []struct {
	about, kind, name string
	patch             string
	edit              []string // file, what, by what
	rule              string
}{
	{about: "misspelt field", kind: "Deployment", name: "gateway", rule: "strict", patch: `{"op":"add","path":"/spec/replica","value":2}`},
	{about: "field of the wrong type", kind: "Deployment", name: "gateway", rule: "strict", patch: `{"op":"replace","path":"/spec/replicas","value":"two"}`},
	{about: "kind of another version", kind: "PodDisruptionBudget", name: "gateway", rule: "strict", patch: `{"op":"replace","path":"/apiVersion","value":"policy/v1beta1"}`},

	{about: "privilege escalation", kind: "Deployment", name: "gateway", rule: "pod-security", patch: `{"op":"replace","path":"` + first + `/securityContext/allowPrivilegeEscalation","value":true}`},
	{about: "capabilities kept", kind: "StatefulSet", name: "keyd", rule: "pod-security", patch: `{"op":"remove","path":"` + first + `/securityContext/capabilities"}`},
	{about: "no seccomp profile", kind: "StatefulSet", name: "keyd", rule: "pod-security", patch: `{"op":"remove","path":"/spec/template/spec/securityContext/seccompProfile"}`},
	{about: "root", kind: "Deployment", name: "gateway", rule: "pod-security", patch: `{"op":"replace","path":"/spec/template/spec/securityContext/runAsUser","value":0}`},
	{about: "host network", kind: "Deployment", name: "gateway", rule: "pod-security", patch: `{"op":"add","path":"/spec/template/spec/hostNetwork","value":true}`},
	{about: "socket in a folder of the host", kind: "Deployment", name: "gateway", rule: "pod-security", patch: `{"op":"replace","path":"/spec/template/spec/volumes/0","value":{"name":"sockets","hostPath":{"path":"/run/phantom"}}}`},
	{about: "writable root", kind: "Deployment", name: "gateway", rule: "pod-security", patch: `{"op":"replace","path":"` + authzdC + `/securityContext/readOnlyRootFilesystem","value":false}`},
	{about: "namespace that enforces nothing", kind: "Namespace", name: "phantom", rule: "pod-security", patch: `{"op":"remove","path":"/metadata/labels/pod-security.kubernetes.io~1enforce"}`},

	{about: "token of the API server", kind: "Deployment", name: "gateway", rule: "no-api-token", patch: `{"op":"remove","path":"/spec/template/spec/automountServiceAccountToken"}`},
	{about: "no liveness", kind: "StatefulSet", name: "keyd", rule: "probes", patch: `{"op":"remove","path":"` + first + `/livenessProbe"}`},
	{about: "liveness that waits for others", kind: "Deployment", name: "gateway", rule: "probes", patch: `{"op":"replace","path":"` + authzdC + `/livenessProbe/httpGet/path","value":"/readyz"}`},
	{about: "probe of a port that is not there", kind: "Deployment", name: "gateway", rule: "probes", patch: `{"op":"replace","path":"` + first + `/readinessProbe/tcpSocket/port","value":"https"}`},
	{about: "no memory limit", kind: "StatefulSet", name: "keyd", rule: "resources", patch: `{"op":"remove","path":"` + first + `/resources/limits"}`},
	{about: "CPU limit", kind: "Deployment", name: "gateway", rule: "resources", patch: `{"op":"add","path":"` + authzdC + `/resources/limits/cpu","value":"1"}`},
	{about: "memory limit raised, GOMEMLIMIT forgotten", kind: "Deployment", name: "gateway", rule: "resources", patch: `{"op":"replace","path":"` + authzdC + `/resources/limits/memory","value":"1Gi"}`},
	{about: "image that may change", kind: "Deployment", name: "gateway", rule: "images", patch: `{"op":"replace","path":"` + first + `/image","value":"envoyproxy/envoy:latest"}`},
	{about: "ConfigMap that is not there", kind: "Deployment", name: "gateway", rule: "references", patch: `{"op":"replace","path":"/spec/template/spec/volumes/2/configMap/name","value":"envoy-old"}`},
	{about: "mount without a volume", kind: "StatefulSet", name: "keyd", rule: "references", patch: `{"op":"replace","path":"` + first + `/volumeMounts/2/name","value":"config"}`},
	{about: "Service that selects nothing", kind: "Service", name: "keyd", rule: "services", patch: `{"op":"replace","path":"/spec/selector","value":{"app":"keyd"}}`},
	{about: "Service to a port that is not there", kind: "Service", name: "keyd", rule: "services", patch: `{"op":"replace","path":"/spec/ports/0/targetPort","value":"operators"}`},
	{about: "key API open to the world", kind: "Service", name: "keyd", rule: "services", patch: `{"op":"add","path":"/spec/type","value":"LoadBalancer"}`},
	{about: "secrets that everybody in the container can read", kind: "StatefulSet", name: "keyd", rule: "secrets", patch: `{"op":"remove","path":"/spec/template/spec/volumes/1/projected/defaultMode"}`},
	{about: "token in the environment", kind: "Deployment", name: "gateway", rule: "secrets", patch: `{"op":"add","path":"` + authzdC + `/env/-","value":{"name":"TOKEN","valueFrom":{"secretKeyRef":{"name":"key-api-token","key":"token"}}}}`},
	{about: "Secret without its key", kind: "Secret", name: "operator-token", rule: "secrets", patch: `{"op":"remove","path":"/data/token"}`},

	{about: "keyd restarted while it waits for its database", kind: "StatefulSet", name: "keyd", rule: "probes", patch: `{"op":"replace","path":"` + first + `/startupProbe/httpGet/path","value":"/readyz"}`},

	{about: "authzd with the operator's token", kind: "Deployment", name: "gateway", rule: "secret-access", patch: `{"op":"add","path":"/spec/template/spec/volumes/1/projected/sources/-","value":{"secret":{"name":"operator-token"}}}`},
	{about: "Envoy with the sidecar's token", kind: "Deployment", name: "gateway", rule: "secret-access", patch: `{"op":"add","path":"` + first + `/volumeMounts/-","value":{"name":"authzd","mountPath":"/etc/authzd"}}`},
	{about: "one certificate for authzd and Envoy", kind: "Deployment", name: "gateway", rule: "secret-access", patch: `{"op":"replace","path":"/spec/template/spec/volumes/3/secret/secretName","value":"authzd-tls"}`},
	{about: "keyd's key in the gateway", kind: "Deployment", name: "gateway", rule: "secret-access", patch: `{"op":"replace","path":"/spec/template/spec/volumes/1/projected/sources/2/secret/name","value":"keyd-tls"}`},

	{about: "init container that must end", kind: "Deployment", name: "gateway", rule: "native-sidecar", patch: `{"op":"remove","path":"` + authzdC + `/restartPolicy"}`},
	{about: "authzd beside Envoy", kind: "Deployment", name: "gateway", rule: "native-sidecar", patch: `{"op":"move","from":"` + authzdC + `","path":"` + gatewayPod + `/containers/-"}`},
	{about: "Envoy does not wait", kind: "Deployment", name: "gateway", rule: "native-sidecar", patch: `{"op":"remove","path":"` + authzdC + `/startupProbe"}`},
	{about: "sidecar with a preStop", kind: "Deployment", name: "gateway", rule: "native-sidecar", patch: `{"op":"add","path":"` + authzdC + `/lifecycle","value":{"preStop":{"sleep":{"seconds":5}}}}`},
	{about: "sidecar with a readiness", kind: "Deployment", name: "gateway", rule: "native-sidecar", patch: `{"op":"add","path":"` + authzdC + `/readinessProbe","value":{"httpGet":{"path":"/readyz","port":"authzd-admin"}}}`},
	{about: "Envoy cut off", kind: "Deployment", name: "gateway", rule: "gateway-rollout", patch: `{"op":"remove","path":"` + first + `/lifecycle"}`},
	{about: "preStop longer than the Pod's end", kind: "Deployment", name: "gateway", rule: "gateway-rollout", patch: `{"op":"replace","path":"` + first + `/lifecycle/preStop/exec/command","value":["sleep 55"]}`},
	{about: "delay that nobody needs", kind: "ConfigMap", name: "authzd", rule: "gateway-rollout", edit: []string{"authzd.yaml", "key_api:", "drain_delay: 5s\nkey_api:"}},
	{about: "drain longer than the Pod's end", kind: "ConfigMap", name: "authzd", rule: "gateway-rollout", edit: []string{"authzd.yaml", "key_api:", "drain: 1m\nkey_api:"}},
	{about: "too little time for keyd to end", kind: "StatefulSet", name: "keyd", rule: "keyd-store", patch: `{"op":"replace","path":"/spec/template/spec/terminationGracePeriodSeconds","value":10}`},
	{about: "too little time to end", kind: "Deployment", name: "gateway", rule: "gateway-rollout", patch: `{"op":"replace","path":"/spec/template/spec/terminationGracePeriodSeconds","value":10}`},
	{about: "budget that blocks every drain", kind: "PodDisruptionBudget", name: "gateway", rule: "gateway-rollout", patch: `{"op":"replace","path":"/spec/maxUnavailable","value":0}`},
	{about: "budget for nobody", kind: "PodDisruptionBudget", name: "gateway", rule: "gateway-rollout", patch: `{"op":"replace","path":"/spec/selector/matchLabels","value":{"app":"gateway"}}`},
	{about: "two folders for one socket", kind: "Deployment", name: "gateway", rule: "socket", patch: `{"op":"replace","path":"` + first + `/volumeMounts/0/mountPath","value":"/sockets"}`},
	{about: "Envoy may replace the socket", kind: "Deployment", name: "gateway", rule: "socket", patch: `{"op":"remove","path":"` + first + `/volumeMounts/0/readOnly"}`},
	{about: "two writers", kind: "StatefulSet", name: "keyd", rule: "keyd-store", patch: `{"op":"replace","path":"/spec/replicas","value":2}`},
	{about: "keys that end with the Pod", kind: "StatefulSet", name: "keyd", rule: "keyd-store", patch: `{"op":"replace","path":"` + first + `/volumeMounts/0/name","value":"sockets"}`},

	{about: "no default", kind: "NetworkPolicy", name: "nobody", rule: "network", patch: `{"op":"replace","path":"/spec/podSelector","value":{"matchLabels":{"app":"x"}}}`},
	{about: "default for one direction", kind: "NetworkPolicy", name: "nobody", rule: "network", patch: `{"op":"replace","path":"/spec/policyTypes","value":["Ingress"]}`},
	{about: "keyd open to its neighbours", kind: "NetworkPolicy", name: "keyd", rule: "network", patch: `{"op":"replace","path":"/spec/ingress/0/from/0/podSelector","value":{}}`},
	{about: "keyd open to all namespaces", kind: "NetworkPolicy", name: "keyd", rule: "network", patch: `{"op":"add","path":"/spec/ingress/0/from/0/namespaceSelector","value":{}}`},
	{about: "keyd open to everybody", kind: "NetworkPolicy", name: "keyd", rule: "network", patch: `{"op":"remove","path":"/spec/ingress/0/from"}`},
	{about: "all of keyd's ports open to the gateway", kind: "NetworkPolicy", name: "keyd", rule: "network", patch: `{"op":"remove","path":"/spec/ingress/0/ports"}`},
	{about: "keyd's owners out of reach", kind: "NetworkPolicy", name: "keyd", rule: "network", patch: `{"op":"remove","path":"/spec/ingress/0/ports/1"}`},
	{about: "gateway that cannot call keyd", kind: "NetworkPolicy", name: "gateway", rule: "network", patch: `{"op":"remove","path":"/spec/egress/1"}`},
	{about: "metrics and profiles for everybody", kind: "NetworkPolicy", name: "gateway", rule: "network", patch: `{"op":"remove","path":"/spec/ingress/1/from"}`},
	{about: "keyd may call out", kind: "NetworkPolicy", name: "keyd", rule: "network", patch: `{"op":"add","path":"/spec/egress","value":[{}]}`},

	{about: "configuration edited where it is deployed", kind: "ConfigMap", name: "envoy", rule: "configuration", edit: []string{"envoy.yaml", "failure_mode_allow: false", "failure_mode_allow: true"}},
	{about: "listeners without client certificates", kind: "ConfigMap", name: "keyd", rule: "mutual-tls", edit: []string{"keyd.yaml", ", client_ca_file: tls/ca.crt", ""}},
	{about: "key API without TLS", kind: "ConfigMap", name: "authzd", rule: "mutual-tls", edit: []string{"authzd.yaml", "https://", "http://"}},
	{about: "Envoy that takes anybody for keyd", kind: "ConfigMap", name: "envoy", rule: "mutual-tls", edit: []string{"envoy.yaml", "validation_context_sds_secret_config:", "x:"}},
	{about: "any client certificate", kind: "ConfigMap", name: "keyd", rule: "client-names", edit: []string{"keyd.yaml", "  client_names: {sidecars: [authzd], owners: [envoy]}\n", ""}},
	{about: "any client certificate for owners", kind: "ConfigMap", name: "keyd", rule: "client-names", edit: []string{"keyd.yaml", ", owners: [envoy]", ""}},
	{about: "authzd speaks for owners", kind: "ConfigMap", name: "keyd", rule: "client-names", edit: []string{"keyd.yaml", "owners: [envoy]", "owners: [envoy, authzd]"}},
	{about: "authzd's certificate given to Envoy", kind: "Secret", name: "envoy-tls", rule: "client-names", patch: `{"op":"replace","path":"/data/tls.crt","value":"AUTHZD"}`},
	{about: "listener on IPv4 only", kind: "ConfigMap", name: "keyd", rule: "dual-stack", edit: []string{"keyd.yaml", "owners: tcp://[::]", "owners: tcp://0.0.0.0"}},
	{about: "admin listener on IPv4 only", kind: "ConfigMap", name: "authzd", rule: "dual-stack", edit: []string{"authzd.yaml", "tcp://[::]", "tcp://0.0.0.0"}},
	{about: "Service of one family", kind: "Service", name: "keyd", rule: "dual-stack", patch: `{"op":"remove","path":"/spec/ipFamilyPolicy"}`},
	{about: "less memory than Envoy's heap", kind: "Deployment", name: "gateway", rule: "envoy-memory", patch: `{"op":"replace","path":"` + first + `/resources/limits/memory","value":"640Mi"}`},
	{about: "Envoy on IPv4 only", kind: "ConfigMap", name: "envoy", rule: "envoy-listeners", edit: []string{"envoy.yaml", `address: "::", port_value: 10000, ipv4_compat: true`, "address: 0.0.0.0, port_value: 10000"}},
	{about: "any name in keyd's certificate", kind: "ConfigMap", name: "envoy", rule: "mutual-tls", edit: []string{"sds-ca.yaml", "{san_type: DNS, matcher: {exact: keyd}}", ""}},
}

func TestMutationsAreCaught(t *testing.T) {
	text := kustomize(t, demo(t))
	held := map[string]bool{}
	for _, m := range mutations {
		held[m.rule] = true
		t.Run(m.about, func(t *testing.T) {
			docs := documents(t, text)
			i := slices.IndexFunc(docs, func(doc map[string]any) bool { return is(doc, m.kind, m.name) })
			if i < 0 {
				t.Fatalf("there is no %s %s", m.kind, m.name)
			}
			if m.edit != nil {
				data := docs[i]["data"].(map[string]any)
				before := data[m.edit[0]].(string)
				if data[m.edit[0]] = strings.Replace(before, m.edit[1], m.edit[2], 1); data[m.edit[0]] == before {
					t.Fatalf("%s does not hold %q", m.edit[0], m.edit[1])
				}
			} else {
				docs[i] = patched(t, docs[i], strings.Replace(m.patch, "AUTHZD", authzdCertificate(docs), 1))
			}
			mutant, err := decode(docs)
			if m.rule == "strict" {
				if err == nil {
					t.Fatal("decoded")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			found := judge(mutant)
			if !slices.ContainsFunc(found, func(f finding) bool { return f.rule == m.rule }) {
				t.Fatalf("%s did not catch it; found: %v", m.rule, found)
			}
		})
	}
	for _, rule := range rules {
		if !held[rule.name] {
			t.Errorf("no mutation shows that the rule %s can fail", rule.name)
		}
	}
}

// authzdCertificate is the certificate in the demo's Secret, in base64.
func authzdCertificate(docs []map[string]any) string {
	i := slices.IndexFunc(docs, func(doc map[string]any) bool { return is(doc, "Secret", "authzd-tls") })
	return strings.Join(strings.Fields(docs[i]["data"].(map[string]any)["tls.crt"].(string)), "")
}

// is tells whether it is the object of that name, with or without a hash behind it.
func is(doc map[string]any, kind, name string) bool {
	full := doc["metadata"].(map[string]any)["name"].(string)
	return doc["kind"] == kind && (full == name || kind == "ConfigMap" && strings.HasPrefix(full, name+"-"))
}

func patched(t *testing.T, doc map[string]any, operation string) map[string]any {
	t.Helper()
	patch, err := jsonpatch.DecodePatch([]byte("[" + operation + "]"))
	if err != nil {
		t.Fatal(err)
	}
	before, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(before)
	if err != nil {
		t.Fatal(err)
	}
	var result map[string]any
	if err := json.Unmarshal(after, &result); err != nil {
		t.Fatal(err)
	}
	return result
}
