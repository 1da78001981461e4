package k8s

import (
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// nativeSidecar: authzd is there before Envoy and after it, and never takes the Pod out of service.
func nativeSidecar(m *manifests, report report) {
	p, ok := m.pod("gateway", report)
	if !ok {
		return
	}
	spec := p.template.Spec
	if !slices.ContainsFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == "envoy" }) {
		report("gateway", "envoy must be a container")
	}
	if !slices.ContainsFunc(spec.InitContainers, func(c corev1.Container) bool { return c.Name == "authzd" }) {
		report("gateway", "authzd must be an init container: only then it is there before Envoy")
		return
	}
	authzd := p.container("authzd")
	if authzd.RestartPolicy == nil || *authzd.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		report("gateway/authzd", "restartPolicy must be Always: else Envoy waits for its end")
	}
	if probe := authzd.StartupProbe; probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != "/readyz" {
		report("gateway/authzd", "only a startupProbe that asks /readyz keeps Envoy waiting until authzd answers")
	}
	if authzd.ReadinessProbe != nil {
		report("gateway/authzd", "a sidecar's readiness counts for the whole Pod: it must have none")
	}
	if authzd.Lifecycle != nil {
		report("gateway/authzd", "a sidecar's preStop runs when the Pod begins to end, while Envoy still needs it")
	}
}

// gatewayRollout: a restart of the gateway loses no request.
func gatewayRollout(m *manifests, report report) {
	p, ok := m.pod("gateway", report)
	if !ok {
		return
	}
	if envoy := p.container("envoy"); envoy.Lifecycle == nil || envoy.Lifecycle.PreStop == nil {
		report("gateway/envoy", "needs a preStop: SIGTERM ends Envoy at once")
	}
	authzd := m.files()["authzd.yaml"]
	stopsIn(p, preStop(p.container("envoy"))+stopTime(func(format string, args ...any) { report("authzd.yaml", format, args...) }, authzd), report)
	if strings.Contains(authzd, "drain_delay") {
		report("authzd.yaml", "authzd stops after Envoy: drain_delay would only prolong the Pod's end")
	}
	covers := func(s *metav1.LabelSelector) bool { return selects(s, p.template.Labels) }
	budget := false
	for _, b := range m.budgets {
		blocks := b.Spec.MaxUnavailable != nil && b.Spec.MaxUnavailable.IntValue() == 0
		budget = budget || covers(b.Spec.Selector) && !blocks
	}
	if !budget {
		report("gateway", "needs a PodDisruptionBudget that allows some disruption")
	}
	for _, d := range m.deployments {
		if d.Name != "gateway" {
			continue
		}
		if r := d.Spec.Strategy.RollingUpdate; r == nil || r.MaxUnavailable == nil || r.MaxUnavailable.IntValue() != 0 {
			report("gateway", "an update must start the new Pod before it stops an old one")
		}
	}
}

// preStop is how long a container's preStop sleeps.
func preStop(c *corev1.Container) time.Duration {
	if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Exec == nil {
		return 0
	}
	sleep := regexp.MustCompile(`\bsleep (\d+)`).FindStringSubmatch(strings.Join(c.Lifecycle.PreStop.Exec.Command, " "))
	if sleep == nil {
		return 0
	}
	d, _ := time.ParseDuration(sleep[1] + "s")
	return d
}

// stopsIn: the kubelet waits for the Pod's end as long as its programs may take, and 5 s more.
func stopsIn(p pod, need time.Duration, report report) {
	need += 5 * time.Second
	grace := p.template.Spec.TerminationGracePeriodSeconds
	if grace == nil || time.Duration(*grace)*time.Second < need {
		report(p.name, "terminationGracePeriodSeconds must be at least %v", need)
	}
}

// socket: authzd and Envoy share one folder in memory, where only authzd writes.
func socket(m *manifests, report report) {
	p, ok := m.pod("gateway", report)
	if !ok {
		return
	}
	shared := map[string]string{}
	for _, name := range []string{"authzd", "envoy"} {
		for _, mount := range p.container(name).VolumeMounts {
			if mount.MountPath == "/run/phantom" {
				shared[name] = mount.Name
				if mount.ReadOnly != (name == "envoy") {
					report("gateway/"+name, "authzd alone writes to the sockets' folder")
				}
			}
		}
	}
	i := slices.IndexFunc(p.template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == shared["authzd"] })
	switch {
	case i < 0 || shared["authzd"] != shared["envoy"]:
		report("gateway", "authzd and envoy must share a volume at /run/phantom")
	case p.template.Spec.Volumes[i].EmptyDir == nil || p.template.Spec.Volumes[i].EmptyDir.Medium != corev1.StorageMediumMemory:
		report("gateway", "the sockets' folder must be an emptyDir in memory")
	}
}

// keydStore: SQLite is on a volume that outlives the Pod, and has one writer.
func keydStore(m *manifests, report report) {
	p, ok := m.pod("keyd", report)
	if !ok {
		return
	}
	stopsIn(p, stopTime(func(format string, args ...any) { report("keyd.yaml", format, args...) }, m.files()["keyd.yaml"]), report)
	for _, s := range m.statefulSets {
		if s.Name == "keyd" && (s.Spec.Replicas == nil || *s.Spec.Replicas != 1) {
			report("keyd", "SQLite has one writer: replicas must be 1")
		}
	}
	for _, mount := range p.container("keyd").VolumeMounts {
		if mount.MountPath != "/var/lib/phantom" {
			continue
		}
		if !slices.ContainsFunc(p.claims, func(c corev1.PersistentVolumeClaim) bool { return c.Name == mount.Name }) {
			report("keyd", "/var/lib/phantom must be a claimed volume")
		}
		return
	}
	report("keyd", "nothing is mounted at /var/lib/phantom")
}

// peer is somebody who may try to reach a Pod.
type peer struct{ pod, namespace labels.Set }

var (
	ours       = labels.Set{"kubernetes.io/metadata.name": "phantom"}
	others     = labels.Set{"kubernetes.io/metadata.name": "others"}
	monitoring = labels.Set{"kubernetes.io/metadata.name": "monitoring", "phantom.io/monitoring": "true"}
)

func named(name string) labels.Set { return labels.Set{"app.kubernetes.io/name": name} }

// network asks the policies as the cluster would: who reaches which port.
func network(m *manifests, report report) {
	overNetwork := slices.ContainsFunc(m.policies, func(p *networkingv1.NetworkPolicy) bool { return p.Name == "keyd-operators" })
	operator := labels.Set{"phantom.io/operator": "true"}
	gateway := named("gateway")
	for _, c := range []struct {
		who  string
		from peer
		to   labels.Set
		port int32
		may  bool
	}{
		{"a client anywhere", peer{named("client"), others}, gateway, 10000, true},
		{"a client anywhere", peer{named("client"), others}, gateway, 9192, false},
		{"a client anywhere", peer{named("client"), others}, gateway, 9901, false},
		{"monitoring", peer{named("prometheus"), monitoring}, gateway, 9192, true},
		{"a neighbour", peer{named("echo"), ours}, gateway, 9192, false},
		{"the gateway", peer{gateway, ours}, named("keyd"), 8080, true},
		{"the gateway", peer{gateway, ours}, named("keyd"), 8083, true},
		{"the gateway", peer{gateway, ours}, named("keyd"), 8081, false},
		{"the gateway", peer{gateway, ours}, named("keyd"), 8082, false},
		{"a gateway of another namespace", peer{gateway, others}, named("keyd"), 8083, false},
		{"a neighbour", peer{named("echo"), ours}, named("keyd"), 8080, false},
		{"a neighbour", peer{named("echo"), ours}, named("keyd"), 8083, false},
		{"a stranger", peer{named("client"), others}, named("keyd"), 8080, false},
		{"a stranger", peer{named("client"), others}, named("keyd"), 8083, false},
		{"monitoring", peer{named("prometheus"), monitoring}, named("keyd"), 8082, true},
		{"monitoring", peer{named("prometheus"), monitoring}, named("keyd"), 8083, false},
		{"an operator's Pod", peer{operator, ours}, named("keyd"), 8081, overNetwork},
		{"an operator's Pod", peer{operator, ours}, named("keyd"), 8083, false},
		{"a neighbour", peer{named("echo"), ours}, named("keyd"), 8081, false},
		{"a stranger with the label", peer{operator, others}, named("keyd"), 8081, false},
	} {
		// Who may not must be refused by the one who is called: a caller's own policies are no protection.
		reached := m.admits(c.from, c.to, c.port)
		if c.may && c.from.namespace.Get("kubernetes.io/metadata.name") == "phantom" {
			reached = reached && m.lets(c.from.pod, c.to, c.port)
		}
		if reached != c.may {
			report(c.to.String(), "%s reaches port %d: %v, must be %v", c.who, c.port, reached, c.may)
		}
	}
	if m.policiesOf(named("anything"), networkingv1.PolicyTypeIngress) == nil || m.policiesOf(named("anything"), networkingv1.PolicyTypeEgress) == nil {
		report("namespace", "a Pod that no policy names must be cut off in both directions")
	}
	for _, p := range m.policiesOf(named("keyd"), networkingv1.PolicyTypeEgress) {
		if len(p.Spec.Egress) > 0 {
			report("NetworkPolicy "+p.Name, "keyd calls nobody")
		}
	}
}

// policiesOf returns the policies that bind the Pod in that direction; where there is none, everything is allowed.
func (m *manifests) policiesOf(pod labels.Set, direction networkingv1.PolicyType) []*networkingv1.NetworkPolicy {
	var bound []*networkingv1.NetworkPolicy
	for _, p := range m.policies {
		if selects(&p.Spec.PodSelector, pod) && slices.Contains(p.Spec.PolicyTypes, direction) {
			bound = append(bound, p)
		}
	}
	return bound
}

// admits tells whether the policies of the one who is called allow a connection.
func (m *manifests) admits(from peer, to labels.Set, port int32) bool {
	policies := m.policiesOf(to, networkingv1.PolicyTypeIngress)
	allowed := len(policies) == 0
	for _, p := range policies {
		for _, rule := range p.Spec.Ingress {
			allowed = allowed || portAllowed(rule.Ports, port) && peerAllowed(rule.From, from)
		}
	}
	return allowed
}

// lets tells whether the policies of the caller, a Pod of ours, allow a connection to another.
func (m *manifests) lets(from, to labels.Set, port int32) bool {
	policies := m.policiesOf(from, networkingv1.PolicyTypeEgress)
	allowed := len(policies) == 0
	for _, p := range policies {
		for _, rule := range p.Spec.Egress {
			allowed = allowed || portAllowed(rule.Ports, port) && peerAllowed(rule.To, peer{to, ours})
		}
	}
	return allowed
}

func portAllowed(ports []networkingv1.NetworkPolicyPort, port int32) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		return p.Port == nil || p.Port.IntVal == port
	})
}

func peerAllowed(peers []networkingv1.NetworkPolicyPeer, who peer) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.NamespaceSelector == nil && who.namespace.Get("kubernetes.io/metadata.name") != "phantom" {
			return false
		}
		return (p.NamespaceSelector == nil || selects(p.NamespaceSelector, who.namespace)) &&
			(p.PodSelector == nil || selects(p.PodSelector, who.pod)) && p.IPBlock == nil
	})
}

func selects(selector *metav1.LabelSelector, set labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(set)
}
