package k8s

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// nativeSidecar checks that authzd starts before Envoy, stops after it, and makes the Pod unready only if it is stuck.
func nativeSidecar(_ *manifests, p pod, report report) {
	if !slices.ContainsFunc(p.template.Spec.Containers, func(c corev1.Container) bool { return c.Name == "envoy" }) {
		report(p.name, "envoy must be a container")
	}
	if !slices.ContainsFunc(p.template.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "authzd" }) {
		report(p.name, "authzd must be an init container: it must start before Envoy")
		return
	}
	authzd := p.container("authzd")
	if authzd.RestartPolicy == nil || *authzd.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		report(p.name+"/authzd", "restartPolicy must be Always: otherwise Envoy waits until it exits")
	}
	if probePath(authzd.StartupProbe) != "/readyz" {
		report(p.name+"/authzd", "startupProbe must request /readyz: Envoy must wait until authzd answers")
	}
	if probePath(authzd.ReadinessProbe) != "/readyz" {
		report(p.name+"/authzd", "readinessProbe must request /readyz: Envoy answers 503 while authzd is stuck")
	}
	if authzd.Lifecycle != nil {
		report(p.name+"/authzd", "lifecycle must be absent: preStop would run while Envoy still needs authzd")
	}
}

// gatewayRollout checks that an update or a restart of the gateway loses no request.
func gatewayRollout(m *manifests, p pod, report report) {
	envoy := p.container("envoy")
	if envoy.Lifecycle == nil || envoy.Lifecycle.PreStop == nil {
		report(p.name+"/envoy", "missing preStop: Envoy exits immediately on SIGTERM")
	}
	need := preStop(envoy)
	if _, central := m.pod("authzd"); !central {
		authzd := m.files()["authzd.yaml"]
		need += stopTime(func(format string, args ...any) { report("authzd.yaml", format, args...) }, authzd)
		if strings.Contains(authzd, "drain_delay") {
			report("authzd.yaml", "drain_delay must be absent: authzd stops after Envoy, so it would only delay the end of the Pod")
		}
	}
	stopsIn(p, need, report)
	if !slices.ContainsFunc(m.budgets, func(b *policyv1.PodDisruptionBudget) bool {
		blocks := b.Spec.MaxUnavailable != nil && b.Spec.MaxUnavailable.IntValue() == 0
		return selects(b.Spec.Selector, p.template.Labels) && !blocks
	}) {
		report(p.name, "missing PodDisruptionBudget that allows a disruption")
	}
	for _, d := range m.deployments {
		if r := d.Spec.Strategy.RollingUpdate; d.Name == p.name && (r == nil || r.MaxUnavailable == nil || r.MaxUnavailable.IntValue() != 0) {
			report(p.name, "maxUnavailable must be 0: an update must start the new Pod before it stops an old one")
		}
	}
}

// preStop returns how long a container's preStop sleeps.
func preStop(c *corev1.Container) time.Duration {
	switch {
	case c.Lifecycle == nil || c.Lifecycle.PreStop == nil:
		return 0
	case c.Lifecycle.PreStop.Sleep != nil:
		return time.Duration(c.Lifecycle.PreStop.Sleep.Seconds) * time.Second
	case c.Lifecycle.PreStop.Exec == nil:
		return 0
	}
	sleep := regexp.MustCompile(`\bsleep (\d+)`).FindStringSubmatch(strings.Join(c.Lifecycle.PreStop.Exec.Command, " "))
	if sleep == nil {
		return 0
	}
	d, _ := time.ParseDuration(sleep[1] + "s")
	return d
}

// stopsIn checks that the kubelet waits for the end of the Pod 5 s longer than its programs need.
func stopsIn(p pod, need time.Duration, report report) {
	need += 5 * time.Second
	grace := p.template.Spec.TerminationGracePeriodSeconds
	if grace == nil || time.Duration(*grace)*time.Second < need {
		report(p.name, "terminationGracePeriodSeconds must be at least %v", need)
	}
}

// socket checks that authzd and Envoy share one directory in memory, to which only authzd writes.
func socket(_ *manifests, p pod, report report) {
	shared := map[string]string{}
	for _, name := range []string{"authzd", "envoy"} {
		for _, mount := range p.container(name).VolumeMounts {
			if mount.MountPath == "/run/phantom" {
				shared[name] = mount.Name
				if mount.ReadOnly != (name == "envoy") {
					report(p.name+"/"+name, "only authzd may write to the directory of the sockets")
				}
			}
		}
	}
	i := slices.IndexFunc(p.template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == shared["authzd"] })
	switch {
	case i < 0 || shared["authzd"] != shared["envoy"]:
		report(p.name, "authzd and envoy must share a volume at /run/phantom")
	case p.template.Spec.Volumes[i].EmptyDir == nil || p.template.Spec.Volumes[i].EmptyDir.Medium != corev1.StorageMediumMemory:
		report(p.name, "the volume of the sockets must be an emptyDir in memory")
	}
}

// keydStore checks that SQLite is on a claimed volume and has one writer.
func keydStore(m *manifests, p pod, report report) {
	stopsIn(p, stopTime(func(format string, args ...any) { report("keyd.yaml", format, args...) }, m.files()["keyd.yaml"]), report)
	for _, s := range m.statefulSets {
		if s.Name == "keyd" && (s.Spec.Replicas == nil || *s.Spec.Replicas != 1) {
			report("keyd", "replicas must be 1: SQLite has one writer")
		}
	}
	mounts := p.container("keyd").VolumeMounts
	i := slices.IndexFunc(mounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/var/lib/phantom" })
	if i < 0 || !slices.ContainsFunc(p.claims, func(c corev1.PersistentVolumeClaim) bool { return c.Name == mounts[i].Name }) {
		report("keyd", "/var/lib/phantom must be a claimed volume")
	}
}

// peer is the source of a connection: the labels of a Pod and of its namespace.
type peer struct{ pod, namespace labels.Set }

var (
	phantom      = labels.Set{"kubernetes.io/metadata.name": "phantom"}
	others       = labels.Set{"kubernetes.io/metadata.name": "others"}
	monitoring   = labels.Set{"kubernetes.io/metadata.name": "monitoring", "phantom.io/monitoring": "true"}
	withSidecars = labels.Set{"kubernetes.io/metadata.name": "shop", "phantom.io/sidecars": "true"}
	kubeSystem   = labels.Set{"kubernetes.io/metadata.name": "kube-system"}
)

// nodeLocalDNS is the address of NodeLocal DNSCache in the Kubernetes documentation.
const nodeLocalDNS = "169.254.20.10"

// named returns the labels of the Pods of that name.
func named(name string) labels.Set { return labels.Set{"app.kubernetes.io/name": name} }

// network evaluates the NetworkPolicies as the cluster does: which peer reaches which port.
func network(m *manifests, report report) {
	overNetwork := slices.ContainsFunc(m.policies, func(p *networkingv1.NetworkPolicy) bool { return p.Name == "keyd-operators" })
	operator := labels.Set{"phantom.io/operator": "true"}
	gateway := named("gateway")
	_, central := m.pod("authzd")
	for _, c := range []struct {
		what string
		from peer
		to   labels.Set
		port int32
		may  bool
	}{
		{"a client", peer{named("client"), others}, gateway, 10000, true},
		{"a client", peer{named("client"), others}, gateway, 9192, false},
		{"a client", peer{named("client"), others}, gateway, 9901, false},
		{"monitoring", peer{named("prometheus"), monitoring}, gateway, 9192, !central},
		{"monitoring", peer{named("prometheus"), monitoring}, named("authzd"), 9192, central},
		{"the gateway", peer{gateway, phantom}, named("authzd"), 9191, central},
		{"the gateway", peer{gateway, phantom}, named("authzd"), 9192, false},
		{"keyd", peer{named("keyd"), phantom}, named("authzd"), 9191, false},
		{"another Pod", peer{named("echo"), phantom}, named("authzd"), 9191, false},
		{"a client", peer{named("client"), others}, named("authzd"), 9191, false},
		{"authzd", peer{named("authzd"), phantom}, named("keyd"), 8080, central},
		{"a sidecar", peer{labels.Set{"phantom.io/sidecar": "true"}, withSidecars}, named("keyd"), 8080, true},
		{"a sidecar", peer{labels.Set{"phantom.io/sidecar": "true"}, withSidecars}, named("keyd"), 8083, false},
		{"another Pod beside sidecars", peer{named("app"), withSidecars}, named("keyd"), 8080, false},
		{"a sidecar of a namespace without the label", peer{labels.Set{"phantom.io/sidecar": "true"}, others}, named("keyd"), 8080, false},
		{"authzd", peer{named("authzd"), phantom}, named("keyd"), 8083, false},
		{"monitoring", peer{named("prometheus"), monitoring}, gateway, 9902, true},
		{"monitoring", peer{named("prometheus"), monitoring}, gateway, 9901, false},
		{"a client", peer{named("client"), others}, gateway, 9902, false},
		{"another Pod", peer{named("echo"), phantom}, gateway, 9192, false},
		{"the gateway", peer{gateway, phantom}, named("keyd"), 8080, !central},
		{"the gateway", peer{gateway, phantom}, named("keyd"), 8083, true},
		{"the gateway", peer{gateway, phantom}, named("keyd"), 8081, false},
		{"the gateway", peer{gateway, phantom}, named("keyd"), 8082, false},
		{"a gateway of another namespace", peer{gateway, others}, named("keyd"), 8083, false},
		{"another Pod", peer{named("echo"), phantom}, named("keyd"), 8080, false},
		{"another Pod", peer{named("echo"), phantom}, named("keyd"), 8083, false},
		{"a client", peer{named("client"), others}, named("keyd"), 8080, false},
		{"a client", peer{named("client"), others}, named("keyd"), 8083, false},
		{"monitoring", peer{named("prometheus"), monitoring}, named("keyd"), 8082, true},
		{"monitoring", peer{named("prometheus"), monitoring}, named("keyd"), 8083, false},
		{"an operator's Pod", peer{operator, phantom}, named("keyd"), 8081, overNetwork},
		{"an operator's Pod", peer{operator, phantom}, named("keyd"), 8083, false},
		{"another Pod", peer{named("echo"), phantom}, named("keyd"), 8081, false},
		{"an operator's Pod of another namespace", peer{operator, others}, named("keyd"), 8081, false},
	} {
		// The ingress policies of the destination must reject what is not allowed: a client controls its own egress.
		reached := m.ingressAllowed(c.from, c.to, c.port)
		if c.may && c.from.namespace.Get("kubernetes.io/metadata.name") == "phantom" {
			reached = reached && m.egressAllowed(c.from.pod, c.to, c.port)
		}
		if reached != c.may {
			report(c.to.String(), "%s reaches port %d: %t, must be %t", c.what, c.port, reached, c.may)
		}
	}
	if m.policiesOf(named("anything"), networkingv1.PolicyTypeIngress) == nil || m.policiesOf(named("anything"), networkingv1.PolicyTypeEgress) == nil {
		report("namespace", "a default policy must reject connections to and from every Pod")
	}
	for _, dns := range []struct {
		address string
		port    int32
		may     bool
	}{{nodeLocalDNS, 53, true}, {nodeLocalDNS, 80, false}, {"169.254.169.254", 53, false}, {"10.0.0.1", 53, false}} {
		if m.egressToAddress(gateway, dns.address, dns.port) != dns.may {
			report("NetworkPolicy gateway", "the gateway reaches %s port %d: %t, must be %t", dns.address, dns.port, !dns.may, dns.may)
		}
	}
	if !m.egressAllowedTo(gateway, peer{named("kube-dns"), kubeSystem}, 53) {
		report("NetworkPolicy gateway", "the gateway must reach DNS")
	}
	keydEgress(m, report)
}

// keydEgress checks that keyd opens no connections, except to its database if there is one.
func keydEgress(m *manifests, report report) {
	onPostgres := slices.ContainsFunc(m.policies, func(p *networkingv1.NetworkPolicy) bool { return p.Name == "keyd-database" })
	keyd, database := named("keyd"), labels.Set{"phantom.io/database": "true"}
	for _, c := range []struct {
		what string
		got  bool
		may  bool
	}{
		{"the database", m.egressAllowed(keyd, database, 5432), onPostgres},
		{"another port of the database", m.egressAllowed(keyd, database, 22), false},
		{"DNS", m.egressAllowedTo(keyd, peer{named("kube-dns"), kubeSystem}, 53), onPostgres},
		{"NodeLocal DNSCache", m.egressToAddress(keyd, nodeLocalDNS, 53), onPostgres},
		{"another Pod", m.egressAllowed(keyd, named("echo"), 8080), false},
		{"port 5432 of another Pod", m.egressAllowed(keyd, named("echo"), 5432), false},
		{"the internet", m.egressToAddress(keyd, "192.0.2.1", 443), false},
	} {
		if c.got != c.may {
			report("NetworkPolicy", "keyd reaches %s: %t, must be %t", c.what, c.got, c.may)
		}
	}
}

// policiesOf returns the policies that apply to the Pod in that direction. Without one, everything is allowed.
func (m *manifests) policiesOf(pod labels.Set, direction networkingv1.PolicyType) []*networkingv1.NetworkPolicy {
	var bound []*networkingv1.NetworkPolicy
	for _, p := range m.policies {
		if selects(&p.Spec.PodSelector, pod) && slices.Contains(p.Spec.PolicyTypes, direction) {
			bound = append(bound, p)
		}
	}
	return bound
}

// ingressAllowed reports whether the policies of the destination allow a connection.
func (m *manifests) ingressAllowed(from peer, to labels.Set, port int32) bool {
	policies := m.policiesOf(to, networkingv1.PolicyTypeIngress)
	allowed := len(policies) == 0
	for _, p := range policies {
		for _, rule := range p.Spec.Ingress {
			allowed = allowed || portAllowed(rule.Ports, port) && peerAllowed(rule.From, from)
		}
	}
	return allowed
}

// egressAllowed reports whether the policies of the source, a Pod of the namespace phantom, allow a connection in the namespace.
func (m *manifests) egressAllowed(from, to labels.Set, port int32) bool {
	return m.egressAllowedTo(from, peer{to, phantom}, port)
}

func (m *manifests) egressAllowedTo(from labels.Set, to peer, port int32) bool {
	return m.egress(from, port, func(peers []networkingv1.NetworkPolicyPeer) bool { return peerAllowed(peers, to) })
}

// egressToAddress is egressAllowed for an address that is not a Pod's.
func (m *manifests) egressToAddress(from labels.Set, address string, port int32) bool {
	return m.egress(from, port, func(peers []networkingv1.NetworkPolicyPeer) bool {
		return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
			return p.IPBlock != nil && netip.MustParsePrefix(p.IPBlock.CIDR).Contains(netip.MustParseAddr(address))
		})
	})
}

// egress reports whether a rule of the source's policies has the port and destinations that match.
func (m *manifests) egress(from labels.Set, port int32, match func([]networkingv1.NetworkPolicyPeer) bool) bool {
	policies := m.policiesOf(from, networkingv1.PolicyTypeEgress)
	allowed := len(policies) == 0
	for _, p := range policies {
		for _, rule := range p.Spec.Egress {
			allowed = allowed || portAllowed(rule.Ports, port) && match(rule.To)
		}
	}
	return allowed
}

func portAllowed(ports []networkingv1.NetworkPolicyPort, port int32) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		return p.Port == nil || p.Port.IntVal == port
	})
}

func peerAllowed(peers []networkingv1.NetworkPolicyPeer, source peer) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.NamespaceSelector == nil && source.namespace.Get("kubernetes.io/metadata.name") != "phantom" {
			return false
		}
		return (p.NamespaceSelector == nil || selects(p.NamespaceSelector, source.namespace)) &&
			(p.PodSelector == nil || selects(p.PodSelector, source.pod)) && p.IPBlock == nil
	})
}

func selects(selector *metav1.LabelSelector, set labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(set)
}
