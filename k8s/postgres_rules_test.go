package k8s

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// keydReplicas checks that the loss of a node, a drain or an update leaves replicas of keyd that answer.
func keydReplicas(m *manifests, p pod, report report) {
	if len(p.claims) > 0 {
		report("keyd", "must have no volume: its state is in the database")
	}
	for _, d := range m.deployments {
		if d.Name != "keyd" {
			continue
		}
		if d.Spec.Replicas == nil || *d.Spec.Replicas < 3 {
			report("keyd", "replicas must be at least 3: one may be lost while another one is updated")
		}
		if r := d.Spec.Strategy.RollingUpdate; r == nil || r.MaxUnavailable == nil || r.MaxUnavailable.IntValue() != 0 {
			report("keyd", "maxUnavailable must be 0")
		}
	}
	if !slices.ContainsFunc(m.budgets, func(b *policyv1.PodDisruptionBudget) bool {
		return selects(b.Spec.Selector, p.template.Labels) && b.Spec.MaxUnavailable != nil && b.Spec.MaxUnavailable.IntValue() == 1
	}) {
		report("keyd", "missing PodDisruptionBudget with maxUnavailable 1")
	}
	if !slices.ContainsFunc(p.template.Spec.TopologySpreadConstraints, func(c corev1.TopologySpreadConstraint) bool {
		return c.TopologyKey == corev1.LabelHostname && c.WhenUnsatisfiable == corev1.DoNotSchedule && selects(c.LabelSelector, p.template.Labels) &&
			c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
	}) {
		report("keyd", "must be on different nodes, not counting lost ones")
	}
	wait := preStop(p.container("keyd"))
	if wait < 3*time.Second {
		report("keyd", "preStop must sleep at least 3 s: requests still arrive until the Pod has left the Service")
	}
	stopsIn(p, wait+stopTime(func(format string, args ...any) { report("keyd.yaml", format, args...) }, m.files()["keyd.yaml"]), report)
}

// keydDatabase checks that keyd verifies its database, and that the password is in a file.
func keydDatabase(m *manifests, report report) {
	var config struct {
		Store    string
		Password string `yaml:"store_password_file"`
	}
	readYAML(m, "keyd.yaml", &config, report)
	at, err := url.Parse(config.Store)
	if err != nil || at.Scheme != "postgres" || at.Query().Get("sslmode") != "verify-full" {
		report("keyd.yaml", "store is %q: must be postgres:// with sslmode=verify-full", config.Store)
		return
	}
	p, _ := m.pod("keyd")
	for what, file := range map[string]string{"sslrootcert": at.Query().Get("sslrootcert"), "store_password_file": config.Password} {
		if !slices.ContainsFunc(p.container("keyd").VolumeMounts, func(m corev1.VolumeMount) bool {
			return m.Name == "store" && strings.HasPrefix(file, m.MountPath+"/")
		}) {
			report("keyd.yaml", "%s is %q: must be a file of the Secret keyd-store", what, file)
		}
	}
}

// onDatabase is the demo with keyd on PostgreSQL.
const onDatabase = `
namespace: phantom
resources: [../demo]
components: [../../components/postgres]
secretGenerator:
- {name: keyd-store, literals: [ca.crt=x, password=secret], options: {disableNameSuffixHash: true}}
`

func TestRulesDetectMutationsOfPostgres(t *testing.T) {
	proven := withPostgres.detects(t, kustomize(t, overlay(t, onDatabase)), []patch{
		{"two replicas", "Deployment keyd", "keyd-replicas", `replace /spec/replicas 2`},
		{"update that stops first", "Deployment keyd", "keyd-replicas", `replace /spec/strategy/rollingUpdate/maxUnavailable 1`},
		{"all replicas on one node", "Deployment keyd", "keyd-replicas", `replace POD/topologySpreadConstraints/0/whenUnsatisfiable "ScheduleAnyway"`},
		{"a lost node counts", "Deployment keyd", "keyd-replicas", `remove POD/topologySpreadConstraints/0/nodeTaintsPolicy`},
		{"spread of other Pods", "Deployment keyd", "keyd-replicas", `replace POD/topologySpreadConstraints/0/labelSelector {"matchLabels":{"app":"keyd"}}`},
		{"no preStop", "Deployment keyd", "keyd-replicas", `remove MAIN/lifecycle`},
		{"grace period too short", "Deployment keyd", "keyd-replicas", `replace POD/terminationGracePeriodSeconds 15`},
		{"drain of all replicas", "PodDisruptionBudget keyd", "keyd-replicas", `replace /spec/maxUnavailable 3`},
		{"no egress to the database", "NetworkPolicy keyd-database", "network", `remove /spec/egress/1`},
		{"egress to any Pod", "NetworkPolicy keyd-database", "network", `remove /spec/egress/1/to`},
		{"egress to any port", "NetworkPolicy keyd-database", "network", `remove /spec/egress/1/ports`},
		{"no DNS", "NetworkPolicy keyd-database", "network", `remove /spec/egress/0`},
		{"misspelt action", "Deployment keyd", "strict", `replace MAIN/lifecycle {"preStop":{"sleeps":{"seconds":5}}}`},
		{"password for all users", "Deployment keyd", "secrets", `remove POD/volumes/3/secret/defaultMode`},
		{"password in the gateway", "Deployment gateway", "secret-access", `add POD/volumes/1/projected/sources/- {"secret":{"name":"keyd-store"}}`},
		{"Secret without the CA", "Secret keyd-store", "secrets", `remove /data/ca.crt`},
	}, []edit{
		{"no verification", "keyd", "keyd-database", "keyd.yaml", "=verify-full", "=require"},
		{"CA of the system", "keyd", "keyd-database", "keyd.yaml", "&sslrootcert=/etc/phantom-store/ca.crt", ""},
		{"no password", "keyd", "keyd-database", "keyd.yaml", "store_password_file: /etc/phantom-store/password\n", ""},
		{"SQLite", "keyd", "keyd-database", "keyd.yaml", "store: postgres://", "store: sqlite://"},
		{"drain longer than the grace period", "keyd", "keyd-replicas", "keyd.yaml", "store:", "drain: 1m\nstore:"},
	})
	for _, rule := range onPostgres {
		if !proven[rule.name] {
			t.Errorf("missing mutation for the rule %s", rule.name)
		}
	}
}
