package k8s

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// finding is a violation of a rule.
type finding struct{ rule, where, what string }

func (f finding) String() string { return f.rule + ": " + f.where + ": " + f.what }

// report records a violation of the rule that is being checked.
type report func(where, format string, args ...any)

// rule is a condition that valid manifests must also meet. A mutation names the rule that must detect it.
type rule struct {
	name  string
	check func(*manifests, report)
}

// rules apply to all variants.
var rules = []rule{
	{"pod-security", podSecurity},
	{"no-api-token", noAPIToken},
	{"probes", probes},
	{"resources", resources},
	{"images", images},
	{"references", references},
	{"services", services},
	{"secrets", secrets},
	{"gateway-rollout", forEnvoy(gatewayRollout)},
	{"mutual-tls", mutualTLS},
	{"client-names", clientNames},
	{"dual-stack", dualStack},
	{"envoy-memory", forEnvoy(envoyMemory)},
	{"envoy-listeners", forEnvoy(envoyListeners)},
	{"network", network},
	{"monitoring", monitors},
}

// forPod applies a rule to the Pod of that name. A missing Pod is a violation.
func forPod(name string, rule func(*manifests, pod, report)) func(*manifests, report) {
	return func(m *manifests, report report) {
		if p, found := m.pod(name); found {
			rule(m, p, report)
		} else {
			report(name, "missing Deployment or StatefulSet")
		}
	}
}

// forEnvoy applies a rule to the Pod that has Envoy.
func forEnvoy(rule func(*manifests, pod, report)) func(*manifests, report) {
	return func(m *manifests, report report) {
		pods := m.pods()
		if i := slices.IndexFunc(pods, func(p pod) bool { return p.container("envoy").Name != "" }); i >= 0 {
			rule(m, pods[i], report)
		} else {
			report("gateway", "no Pod has a container envoy")
		}
	}
}

// pod is a Pod template with the name and the selector of its Deployment or StatefulSet.
type pod struct {
	name     string
	template *corev1.PodTemplateSpec
	selector map[string]string
	claims   []corev1.PersistentVolumeClaim
}

func (m *manifests) pods() []pod {
	var pods []pod
	for _, d := range m.deployments {
		pods = append(pods, pod{name: d.Name, template: &d.Spec.Template, selector: d.Spec.Selector.MatchLabels})
	}
	for _, s := range m.statefulSets {
		pods = append(pods, pod{s.Name, &s.Spec.Template, s.Spec.Selector.MatchLabels, s.Spec.VolumeClaimTemplates})
	}
	return pods
}

func (m *manifests) pod(name string) (p pod, found bool) {
	pods := m.pods()
	if i := slices.IndexFunc(pods, func(p pod) bool { return p.name == name }); i >= 0 {
		return pods[i], true
	}
	return pod{}, false
}

// containers yields all containers of all Pods, each with its location "POD/CONTAINER".
func (m *manifests) containers() iter.Seq2[string, corev1.Container] {
	return func(yield func(string, corev1.Container) bool) {
		for _, p := range m.pods() {
			for _, c := range p.containers() {
				if !yield(p.name+"/"+c.Name, c) {
					return
				}
			}
		}
	}
}

// containers returns the init containers and then the others.
func (p pod) containers() []corev1.Container {
	return slices.Concat(p.template.Spec.InitContainers, p.template.Spec.Containers)
}

func (p pod) container(name string) *corev1.Container {
	all := p.containers()
	if i := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
		return &all[i]
	}
	return &corev1.Container{}
}

// podSecurity evaluates the Pods with the API server's implementation of the Pod Security Standards, at the level that the
// namespace must enforce.
func podSecurity(m *manifests, report report) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(err)
	}
	level := psa.LevelVersion{Level: psa.LevelRestricted, Version: psa.LatestVersion()}
	for _, p := range m.pods() {
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &p.template.ObjectMeta, &p.template.Spec))
		if !result.Allowed {
			report(p.name, "%s", result.ForbiddenDetail())
		}
		if s := p.template.Spec.SecurityContext; s == nil || s.RunAsUser == nil || *s.RunAsUser != 65532 {
			report(p.name, "must run as user 65532")
		}
	}
	for where, c := range m.containers() {
		if s := c.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			report(where, "the root file system must be read-only")
		}
	}
	for _, n := range m.namespaces {
		if n.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
			report(n.Name, "the namespace must enforce restricted")
		}
	}
}

func noAPIToken(m *manifests, report report) {
	for _, p := range m.pods() {
		if mount := p.template.Spec.AutomountServiceAccountToken; mount == nil || *mount {
			report(p.name, "automountServiceAccountToken must be false: no program uses the API server")
		}
	}
	for _, a := range m.accounts {
		if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
			report(a.Name, "automountServiceAccountToken must be false")
		}
	}
}

func probes(m *manifests, report report) {
	for where, c := range m.containers() {
		if c.LivenessProbe == nil {
			report(where, "missing livenessProbe")
		}
		if c.ReadinessProbe == nil {
			report(where, "missing readinessProbe")
		}
		if c.Name == "authzd" && restartTime(c.LivenessProbe) > 15*time.Second {
			report(where, "a stuck authzd is restarted after %v: must be at most 15 s", restartTime(c.LivenessProbe))
		}
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
			if name := probePort(probe); name != "" && !hasPort(c, name) {
				report(where, "a probe uses port %s, which the container does not have", name)
			}
		}
		if c.Name == "keyd" && probePath(c.StartupProbe) == "/readyz" {
			report(where, "startupProbe must not request /readyz: it would restart a keyd that waits for its database")
		}
		if strings.HasPrefix(probePath(c.LivenessProbe), "/ready") {
			report(where, "livenessProbe must not request %s: a restart does not repair what a program waits for", probePath(c.LivenessProbe))
		}
		if c.Name == "envoy" && (probePath(c.StartupProbe) != "/ready" || !strings.HasPrefix(probePath(c.ReadinessProbe), "/ready")) {
			report(where, "startupProbe and readinessProbe must request /ready: an Envoy that is stuck still accepts connections")
		}
	}
}

// restartTime returns when a process is killed at the latest after it got stuck: just after a successful probe. Without a grace period
// of the probe, that of the Pod applies, which is longer.
func restartTime(p *corev1.Probe) time.Duration {
	if p == nil || p.TerminationGracePeriodSeconds == nil {
		return time.Hour
	}
	return time.Duration(int64(p.PeriodSeconds*p.FailureThreshold+p.TimeoutSeconds)+*p.TerminationGracePeriodSeconds) * time.Second
}

// probePath returns the path of an HTTP probe, "" for other probes.
func probePath(p *corev1.Probe) string {
	if p == nil || p.HTTPGet == nil {
		return ""
	}
	return p.HTTPGet.Path
}

func probePort(p *corev1.Probe) string {
	switch {
	case p == nil:
	case p.HTTPGet != nil:
		return p.HTTPGet.Port.String()
	case p.TCPSocket != nil:
		return p.TCPSocket.Port.String()
	}
	return ""
}

func hasPort(c corev1.Container, name string) bool {
	return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool {
		return p.Name == name || fmt.Sprint(p.ContainerPort) == name
	})
}

func resources(m *manifests, report report) {
	for where, c := range m.containers() {
		limit := c.Resources.Limits.Memory()
		if limit.IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
			report(where, "must have a memory limit, and requests of memory and CPU")
		}
		if _, limited := c.Resources.Limits[corev1.ResourceCPU]; limited {
			report(where, "must have no CPU limit: throttling adds latency")
		}
		if c.Image == "" || c.Name == "envoy" {
			continue // not a Go program; envoy-memory checks it
		}
		soft, err := resource.ParseQuantity(strings.TrimSuffix(goMemLimit(c), "B"))
		if share := soft.AsApproximateFloat64() / limit.AsApproximateFloat64(); err != nil || share < 0.88 || share > 0.91 {
			report(where, "GOMEMLIMIT is %q: must be 90%% of the limit %v", goMemLimit(c), limit)
		}
	}
}

// goMemLimit returns the GOMEMLIMIT of a container, "" without one.
func goMemLimit(c corev1.Container) string {
	if i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" }); i >= 0 {
		return c.Env[i].Value
	}
	return ""
}

// required are the Secrets that an overlay must add, with their keys.
var required = map[string][]string{
	"key-api-token":   {"token"},
	"operator-tokens": {"alice", "bob"},
	"authz-tls":       {"ca.crt", "tls.crt", "tls.key"}, // of an authzd in Pods of its own
	"authzd-tls":      {"ca.crt", "tls.crt", "tls.key"},
	"envoy-tls":       {"ca.crt", "tls.crt", "tls.key"},
	"keyd-tls":        {"ca.crt", "tls.crt", "tls.key"},
	"keyd-store":      {"ca.crt", "password"}, // with PostgreSQL only
}

// references checks that every object exists that a Pod refers to.
func references(m *manifests, report report) {
	given := map[string][]string{"Secret": slices.Collect(maps.Keys(required))}
	for _, s := range m.secrets {
		given["Secret"] = append(given["Secret"], s.Name)
	}
	for _, c := range m.configMaps {
		given["ConfigMap"] = append(given["ConfigMap"], c.Name)
	}
	for _, a := range m.accounts {
		given["ServiceAccount"] = append(given["ServiceAccount"], a.Name)
	}
	for _, p := range m.pods() {
		want := func(kind, name string) {
			if name != "" && !slices.Contains(given[kind], name) {
				report(p.name, "refers to %s %s, which does not exist", kind, name)
			}
		}
		want("ServiceAccount", p.template.Spec.ServiceAccountName)
		var volumes []string
		for _, c := range p.claims {
			volumes = append(volumes, c.Name)
		}
		for _, v := range p.template.Spec.Volumes {
			volumes = append(volumes, v.Name)
			for _, source := range projections(v) {
				if source.Secret != nil {
					want("Secret", source.Secret.Name)
				}
				if source.ConfigMap != nil {
					want("ConfigMap", source.ConfigMap.Name)
				}
			}
		}
		for _, c := range p.containers() {
			for _, mount := range c.VolumeMounts {
				if !slices.Contains(volumes, mount.Name) {
					report(p.name+"/"+c.Name, "mounts volume %s, which does not exist", mount.Name)
				}
			}
		}
	}
}

// projections returns the sources of a volume in one form for all types of volume.
func projections(v corev1.Volume) []corev1.VolumeProjection {
	switch {
	case v.Projected != nil:
		return v.Projected.Sources
	case v.Secret != nil:
		return []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items,
		}}}
	case v.ConfigMap != nil:
		return []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items,
		}}}
	}
	return nil
}

// services checks that selectors match Pods and that ports exist.
func services(m *manifests, report report) {
	pods := m.pods()
	for _, p := range pods {
		if !labels.SelectorFromSet(p.selector).Matches(labels.Set(p.template.Labels)) {
			report(p.name, "selects %v, but its Pods have %v", p.selector, p.template.Labels)
		}
	}
	for _, s := range m.services {
		i := slices.IndexFunc(pods, func(p pod) bool {
			return labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.template.Labels))
		})
		if i < 0 || len(s.Spec.Selector) == 0 {
			report("Service "+s.Name, "selects no Pod")
			continue
		}
		for _, port := range s.Spec.Ports {
			target := port.TargetPort.String()
			if !slices.ContainsFunc(pods[i].containers(), func(c corev1.Container) bool { return hasPort(c, target) }) {
				report("Service "+s.Name, "has the target port %s, which %s does not have", target, pods[i].name)
			}
		}
		if s.Spec.Type != "" && s.Spec.Type != corev1.ServiceTypeClusterIP {
			report("Service "+s.Name, "type must be ClusterIP")
		}
	}
}

// images checks that tags are fixed.
func images(m *manifests, report report) {
	for where, c := range m.containers() {
		if _, tag, _ := strings.Cut(c.Image, ":"); tag == "" || tag == "latest" {
			report(where, "image %q has no fixed tag", c.Image)
		}
	}
}

// secrets checks that Secrets are complete, that only the program's group can read them, and that none is in the environment.
func secrets(m *manifests, report report) {
	for _, p := range m.pods() {
		for _, v := range p.template.Spec.Volumes {
			var mode *int32
			hasSecret := slices.ContainsFunc(projections(v), func(s corev1.VolumeProjection) bool { return s.Secret != nil })
			switch {
			case !hasSecret:
				continue
			case v.Projected != nil:
				mode = v.Projected.DefaultMode
			case v.Secret != nil:
				mode = v.Secret.DefaultMode
			}
			if mode == nil || *mode&0o037 != 0 {
				report(p.name, "volume %s contains a Secret: defaultMode must be 0440", v.Name)
			}
		}
	}
	for where, c := range m.containers() {
		isSecret := func(e corev1.EnvVar) bool { return e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil }
		if slices.ContainsFunc(c.Env, isSecret) || len(c.EnvFrom) > 0 {
			report(where, "secrets must be in files, not in the environment")
		}
	}
	for _, s := range m.secrets {
		for _, key := range required[s.Name] {
			if len(s.Data[key]) == 0 {
				report("Secret "+s.Name, "missing key %s", key)
			}
		}
	}
}
