package k8s

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// finding is a rule that the manifests break, and where.
type finding struct{ rule, where, what string }

func (f finding) String() string { return f.rule + ": " + f.where + ": " + f.what }

// report takes a finding of the rule that is being held.
type report func(where, format string, args ...any)

// rules are what the manifests must keep beyond being valid. Each has a name by which a mutation says that it must be caught.
var rules = []struct {
	name string
	hold func(*manifests, report)
}{
	{"pod-security", podSecurity},
	{"no-api-token", noAPIToken},
	{"probes", probes},
	{"resources", resources},
	{"images", images},
	{"references", references},
	{"services", services},
	{"secrets", secrets},
	{"native-sidecar", nativeSidecar},
	{"gateway-rollout", gatewayRollout},
	{"socket", socket},
	{"keyd-store", keydStore},
	{"configuration", configuration},
	{"mutual-tls", mutualTLS},
	{"secret-access", secretAccess},
	{"client-names", clientNames},
	{"dual-stack", dualStack},
	{"envoy-memory", envoyMemory},
	{"envoy-listeners", envoyListeners},
	{"network", network},
}

func judge(m *manifests) []finding {
	var found []finding
	for _, rule := range rules {
		rule.hold(m, func(where, format string, args ...any) {
			found = append(found, finding{rule.name, where, fmt.Sprintf(format, args...)})
		})
	}
	return found
}

// pod is a Pod template and what it is called.
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

// pod returns the Pod of that name; one that is not there is a finding.
func (m *manifests) pod(name string, report report) (pod, bool) {
	pods := m.pods()
	i := slices.IndexFunc(pods, func(p pod) bool { return p.name == name })
	if i < 0 {
		report(name, "there is no such Deployment or StatefulSet")
		return pod{}, false
	}
	return pods[i], true
}

// containers are all of a Pod, those that start first at the front.
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

// podSecurity asks the API server's own judge of the Pod Security Standards, and holds that the namespace asks it too.
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
		for _, c := range p.containers() {
			if s := c.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
				report(p.name+"/"+c.Name, "the root file system must be read-only")
			}
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
			report(p.name, "no program needs the API server: automountServiceAccountToken must be false")
		}
	}
	for _, a := range m.accounts {
		if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
			report(a.Name, "automountServiceAccountToken must be false")
		}
	}
}

func probes(m *manifests, report report) {
	for _, p := range m.pods() {
		for _, c := range p.containers() {
			where := p.name + "/" + c.Name
			if c.LivenessProbe == nil {
				report(where, "no livenessProbe")
			}
			if c.ReadinessProbe == nil && c.RestartPolicy == nil {
				report(where, "no readinessProbe")
			}
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
				if name := probePort(probe); name != "" && !hasPort(c, name) {
					report(where, "a probe asks port %s, which the container does not have", name)
				}
			}
			if probe := c.StartupProbe; c.Name == "keyd" && probe != nil && probe.HTTPGet != nil && probe.HTTPGet.Path == "/readyz" {
				report(where, "keyd waits for its database: a startupProbe that asks for readiness would restart it meanwhile")
			}
			if probe := c.LivenessProbe; probe != nil && probe.HTTPGet != nil && probe.HTTPGet.Path == "/readyz" {
				report(where, "liveness must not ask for readiness: whatever it waits for would be cured by restarts")
			}
		}
	}
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
	for _, p := range m.pods() {
		for _, c := range p.containers() {
			where, r := p.name+"/"+c.Name, c.Resources
			limit := r.Limits.Memory()
			if limit.IsZero() || r.Requests.Memory().IsZero() || r.Requests.Cpu().IsZero() {
				report(where, "needs a memory limit, and requests of memory and CPU")
			}
			if _, ok := r.Limits[corev1.ResourceCPU]; ok {
				report(where, "must have no CPU limit: throttling is latency")
			}
			if c.Image == "" || strings.HasPrefix(c.Image, "envoyproxy/") {
				continue // not a Go program
			}
			soft, err := resource.ParseQuantity(strings.TrimSuffix(environment(c, "GOMEMLIMIT"), "B"))
			if share := soft.AsApproximateFloat64() / limit.AsApproximateFloat64(); err != nil || share < 0.88 || share > 0.91 {
				report(where, "GOMEMLIMIT is %q, must be 90%% of the limit %v", environment(c, "GOMEMLIMIT"), limit)
			}
		}
	}
}

func environment(c corev1.Container, name string) string {
	if i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name }); i >= 0 {
		return c.Env[i].Value
	}
	return ""
}

// required are the Secrets that must be given besides, and their keys.
var required = map[string][]string{
	"key-api-token":  {"token"},
	"operator-token": {"token"},
	"authzd-tls":     {"ca.crt", "tls.crt", "tls.key"},
	"envoy-tls":      {"ca.crt", "tls.crt", "tls.key"},
	"keyd-tls":       {"ca.crt", "tls.crt", "tls.key"},
}

// references holds that everything that a Pod names is there.
func references(m *manifests, report report) {
	given := map[string][]string{"Secret": {}, "ConfigMap": {}, "ServiceAccount": {}}
	for name := range required {
		given["Secret"] = append(given["Secret"], name)
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
				report(p.name, "names the %s %s, which is not there", kind, name)
			}
		}
		want("ServiceAccount", p.template.Spec.ServiceAccountName)
		volumes := []string{}
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
					report(p.name+"/"+c.Name, "mounts the volume %s, which is not there", mount.Name)
				}
			}
		}
	}
}

// projections is what a volume is made of, in one form for all kinds of it.
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

// services holds that selectors select, and that ports lead somewhere.
func services(m *manifests, report report) {
	pods := m.pods()
	for _, p := range pods {
		if !labels.SelectorFromSet(p.selector).Matches(labels.Set(p.template.Labels)) {
			report(p.name, "selects %v, its Pods have %v", p.selector, p.template.Labels)
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
				report("Service "+s.Name, "leads to port %s, which %s does not have", target, pods[i].name)
			}
		}
		if s.Spec.Type != "" && s.Spec.Type != corev1.ServiceTypeClusterIP {
			report("Service "+s.Name, "must stay inside the cluster")
		}
	}
}

// images are pinned; none is fetched anew under the same name.
func images(m *manifests, report report) {
	for _, p := range m.pods() {
		for _, c := range p.containers() {
			_, tag, _ := strings.Cut(c.Image, ":")
			if tag == "" || tag == "latest" {
				report(p.name+"/"+c.Name, "image %q has no fixed tag", c.Image)
			}
		}
	}
}

// secrets are mounted so that only the program's group can read them, and never given in the environment.
func secrets(m *manifests, report report) {
	for _, p := range m.pods() {
		for _, v := range p.template.Spec.Volumes {
			var mode *int32
			holds := slices.ContainsFunc(projections(v), func(s corev1.VolumeProjection) bool { return s.Secret != nil })
			switch {
			case !holds:
				continue
			case v.Projected != nil:
				mode = v.Projected.DefaultMode
			case v.Secret != nil:
				mode = v.Secret.DefaultMode
			}
			if mode == nil || *mode&0o037 != 0 {
				report(p.name, "the volume %s holds a Secret and must have defaultMode 0440", v.Name)
			}
		}
		for _, c := range p.containers() {
			inEnvironment := func(e corev1.EnvVar) bool { return e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil }
			if slices.ContainsFunc(c.Env, inEnvironment) || len(c.EnvFrom) > 0 {
				report(p.name+"/"+c.Name, "secrets come from files, not from the environment")
			}
		}
	}
	for _, s := range m.secrets {
		for _, key := range required[s.Name] {
			if len(s.Data[key]) == 0 {
				report("Secret "+s.Name, "has no %s", key)
			}
		}
	}
}
