package k8s

import (
	"slices"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// centralAuthzd checks that a replica of authzd leaves without a lost check, and that Envoy uses all of them.
func centralAuthzd(m *manifests, p pod, report report) {
	if gateway, _ := m.pod("gateway"); len(gateway.containers()) != 1 {
		report("gateway", "must have one container: Envoy")
	}
	if probePath(p.container("authzd").ReadinessProbe) != "/readyz" {
		report("authzd", "readinessProbe must request /readyz")
	}
	cluster := m.authzCluster(report)
	stop := stopTime(func(format string, args ...any) { report("authzd.yaml", format, args...) }, m.files()["authzd.yaml"])
	stopsIn(p, stop, report)
	var times struct {
		DrainDelay string `yaml:"drain_delay"`
	}
	readYAML(m, "authzd.yaml", &times, report)
	delay, _ := time.ParseDuration(times.DrainDelay)
	if need := cluster.notices() + 5*time.Second; delay < need {
		report("authzd.yaml", "drain_delay is %v: must be at least %v, 5 s longer than Envoy needs to notice", delay, need)
	}
	if cluster.Type != "STRICT_DNS" {
		report("envoy.yaml", "the type of the cluster authz is %s: must be STRICT_DNS, to use all replicas", cluster.Type)
	}
	if !slices.ContainsFunc(m.services, func(s *corev1.Service) bool {
		return s.Name == "authzd" && s.Spec.ClusterIP == corev1.ClusterIPNone && !s.Spec.PublishNotReadyAddresses
	}) {
		report("Service authzd", "must be headless and without replicas that are not ready")
	}
	if !slices.ContainsFunc(m.budgets, func(b *policyv1.PodDisruptionBudget) bool {
		return selects(b.Spec.Selector, p.template.Labels) && b.Spec.MaxUnavailable != nil && b.Spec.MaxUnavailable.IntValue() == 1
	}) {
		report("authzd", "missing PodDisruptionBudget with maxUnavailable 1")
	}
	for _, d := range m.deployments {
		if r := d.Spec.Strategy.RollingUpdate; d.Name == "authzd" && (r == nil || r.MaxUnavailable == nil || r.MaxUnavailable.IntValue() != 0) {
			report("authzd", "maxUnavailable must be 0")
		}
	}
	if !slices.ContainsFunc(m.scalers, func(s *autoscalingv2.HorizontalPodAutoscaler) bool { return s.Spec.ScaleTargetRef.Name == "authzd" }) {
		report("authzd", "missing HorizontalPodAutoscaler")
	}
}

// autoscaling checks that each HorizontalPodAutoscaler scales by the CPU of a container that exists, and alone.
func autoscaling(m *manifests, report report) {
	for _, s := range m.scalers {
		where := "HorizontalPodAutoscaler " + s.Name
		p, found := m.pod(s.Spec.ScaleTargetRef.Name)
		if !found || s.Spec.ScaleTargetRef.Kind != "Deployment" || s.Spec.ScaleTargetRef.APIVersion != "apps/v1" {
			report(where, "scales %s, which is not a Deployment", s.Spec.ScaleTargetRef.Name)
			continue
		}
		if s.Spec.MinReplicas == nil || *s.Spec.MinReplicas < 2 || s.Spec.MaxReplicas <= *s.Spec.MinReplicas {
			report(where, "minReplicas must be at least 2, and maxReplicas more")
		}
		for _, metric := range s.Spec.Metrics {
			c := metric.ContainerResource
			if c == nil || c.Name != corev1.ResourceCPU || p.container(c.Container).Name == "" {
				report(where, "each metric must be the CPU of a container of %s", p.name)
			}
		}
		for _, d := range m.deployments {
			if d.Name == p.name && d.Spec.Replicas != nil {
				report(d.Name, "replicas must be absent: each deployment would reset the number that %s has set", s.Name)
			}
		}
	}
}

// authzCluster is the part of Envoy's cluster of authzd that the rules check.
type authzCluster struct {
	Name, Type string
	Checks     []struct {
		Timeout, Interval string
		NoTraffic         string `yaml:"no_traffic_interval"`
		Unhealthy         int    `yaml:"unhealthy_threshold"`
		GRPC              any    `yaml:"grpc_health_check"`
	} `yaml:"health_checks"`
}

func (m *manifests) authzCluster(report report) authzCluster {
	var config struct {
		Static struct{ Clusters []authzCluster } `yaml:"static_resources"`
	}
	readYAML(m, "envoy.yaml", &config, report)
	i := slices.IndexFunc(config.Static.Clusters, func(c authzCluster) bool { return c.Name == "authz" })
	if i < 0 {
		report("envoy.yaml", "missing the cluster authz")
		return authzCluster{}
	}
	return config.Static.Clusters[i]
}

// notices returns how long Envoy may use a replica that reports that it is not serving; an hour without health checks.
func (c authzCluster) notices() time.Duration {
	if len(c.Checks) != 1 || c.Checks[0].GRPC == nil {
		return time.Hour
	}
	check := c.Checks[0]
	interval, err := time.ParseDuration(check.Interval)
	idle, idleErr := time.ParseDuration(check.NoTraffic)
	timeout, timeoutErr := time.ParseDuration(check.Timeout)
	if err != nil || idleErr != nil || timeoutErr != nil {
		return time.Hour // the default of no_traffic_interval is a minute
	}
	return max(interval, idle)*time.Duration(check.Unhealthy) + timeout
}

// centralised is the demo with central authzd and keyd on PostgreSQL.
const centralised = `
namespace: phantom
resources: [../demo]
components: [../../components/central, ../../components/postgres, ../../components/monitoring]
secretGenerator:
- {name: keyd-store, literals: [ca.crt=x, password=secret], options: {disableNameSuffixHash: true}}
`

func TestRulesDetectMutationsOfCentral(t *testing.T) {
	proven := withCentral.detects(t, kustomize(t, overlay(t, centralised)), []patch{
		{"authzd beside Envoy, too", "Deployment gateway", "central", `add POD/initContainers [{"name":"authzd","image":"phantom-authz:dev"}]`},
		{"replica that is never taken out", "Deployment authzd", "central", `replace MAIN/readinessProbe/httpGet/path "/livez"`},
		{"grace period shorter than the drain", "Deployment authzd", "central", `replace POD/terminationGracePeriodSeconds 20`},
		{"Service with one address", "Service authzd", "central", `remove /spec/clusterIP`},
		{"replicas that are not ready", "Service authzd", "central", `add /spec/publishNotReadyAddresses true`},
		{"drain of all replicas", "PodDisruptionBudget authzd", "central", `replace /spec/maxUnavailable 3`},
		{"update that stops first", "Deployment authzd", "central", `replace /spec/strategy/rollingUpdate/maxUnavailable 1`},
		{"scaler of another Deployment", "HorizontalPodAutoscaler authzd", "autoscaling", `replace /spec/scaleTargetRef/name "authz"`},
		{"scaler of another container", "HorizontalPodAutoscaler authzd", "autoscaling", `replace /spec/metrics/0/containerResource/container "envoy"`},
		{"scaler by memory", "HorizontalPodAutoscaler authzd", "autoscaling", `replace /spec/metrics/0/containerResource/name "memory"`},
		{"one replica", "HorizontalPodAutoscaler authzd", "autoscaling", `replace /spec/minReplicas 1`},
		{"replicas beside the scaler", "Deployment authzd", "autoscaling", `add /spec/replicas 3`},
		{"misspelt metric", "HorizontalPodAutoscaler authzd", "strict", `add /spec/metrics/0/containerResources {}`},
		{"stuck authzd is restarted late", "Deployment authzd", "probes", `replace MAIN/livenessProbe/periodSeconds 10`},
		{"authzd open to the namespace", "NetworkPolicy authzd", "network", `replace /spec/ingress/0/from/0/podSelector {}`},
		{"admin listener open to the gateway", "NetworkPolicy authzd", "network", `remove /spec/ingress/0/ports`},
		{"gateway cannot reach authzd", "NetworkPolicy gateway", "network", `remove /spec/egress/3`},
		{"gateway reaches the key API", "NetworkPolicy keyd", "network", `add /spec/ingress/0/ports/- {"port":8080}`},
		{"authzd cannot reach keyd", "NetworkPolicy authzd", "network", `remove /spec/egress/1`},
		{"the key API's token in the gateway", "Deployment gateway", "secret-access", `replace POD/volumes/1/secret/secretName "key-api-token"`},
		{"authzd's certificate in Envoy", "Deployment gateway", "secret-access", `replace POD/volumes/1/secret/secretName "authzd-tls"`},
		{"authzd not monitored", "PodMonitor authzd", "monitoring", `replace /spec/selector {"matchLabels":{"app.kubernetes.io/name":"gateway"}}`},
	}, []edit{
		{"no drain_delay", "authzd", "central", "authzd.yaml", "drain_delay: 10s\n", ""},
		{"drain_delay shorter than Envoy needs", "authzd", "central", "authzd.yaml", "drain_delay: 10s", "drain_delay: 3s"},
		{"no health checks", "envoy", "central", "envoy.yaml", "    health_checks:", "    x_checks:"},
		{"health checks once a minute", "envoy", "central", "envoy.yaml", "      no_traffic_interval: 1s\n", ""},
		{"one address for ever", "envoy", "central", "envoy.yaml", "type: STRICT_DNS\n    connect_timeout: 0.25s", "type: STATIC\n    connect_timeout: 0.25s"},
		{"clients without certificates", "authzd", "mutual-tls", "authzd.yaml", ", client_ca_file: tls/ca.crt}\nkey", "}\nkey"},
		{"any name in authzd's certificate", "envoy", "mutual-tls", "sds-authzd-ca.yaml", "{san_type: DNS, matcher: {exact: authzd}}", ""},
		{"Envoy does not verify authzd", "envoy", "mutual-tls", "envoy.yaml", "validation_context_sds_secret_config:\n            {name: authzd-ca", "x:\n            {name: authzd-ca"},
		{"checks on IPv4 only", "authzd", "dual-stack", "authzd.yaml", "tcp://[::]:9191", "tcp://0.0.0.0:9191"},
		{"file differs from the repository", "envoy", "configuration", "sds-authzd-ca.yaml", "exact: authzd", "exact: other"},
	})
	for _, rule := range inPods {
		if !proven[rule.name] {
			t.Errorf("missing mutation for the rule %s", rule.name)
		}
	}
}

// The file is rendered from the base's, so an unknown field would be Envoy's to find: TestEnvoyAcceptsConfigurationOfCentral.
func TestCentralDiffersInOneCluster(t *testing.T) {
	report := func(where, format string, args ...any) { t.Errorf(where+": "+format, args...) }
	var base, central map[string]any
	readYAML(load(t, "base"), "envoy.yaml", &base, report)
	readYAML(load(t, overlay(t, centralised)), "envoy.yaml", &central, report)
	for _, doc := range []map[string]any{base, central} {
		clusters := doc["static_resources"].(map[string]any)["clusters"].([]any)
		doc["static_resources"].(map[string]any)["clusters"] = slices.DeleteFunc(clusters, func(c any) bool { return c.(map[string]any)["name"] == "authz" })
	}
	want, err := yaml.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.Marshal(central)
	if err != nil || string(got) != string(want) {
		t.Errorf("%v\n%s", err, got)
	}
}
