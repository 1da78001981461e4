package k8s

import (
	"fmt"
	"slices"
)

// variant is one of the ways in which the gateway checks requests and keyd stores keys.
type variant struct {
	folders []string            // of the files in ConfigMaps; a later folder replaces files of an earlier one
	readers map[string][]string // the only containers that may mount each Secret
	rules   []rule
}

// Rules of one way to check, and of one store.
var (
	inSidecar  = []rule{{"native-sidecar", forEnvoy(nativeSidecar)}, {"socket", forEnvoy(socket)}}
	inEnvoy    = []rule{{"module", forEnvoy(moduleInEnvoy)}, {"module-file", moduleFile}}
	inPods     = []rule{{"central", forPod("authzd", centralAuthzd)}, {"autoscaling", autoscaling}}
	onSQLite   = []rule{{"keyd-store", forPod("keyd", keydStore)}}
	onPostgres = []rule{{"keyd-replicas", forPod("keyd", keydReplicas)}, {"keyd-database", keydDatabase}}
)

// withAuthzd is the base, the others are components of that name.
var (
	withAuthzd   = newVariant([]string{"base/config"}, "gateway/authzd", inSidecar, onSQLite)
	withModule   = newVariant([]string{"base/config", "components/module"}, "gateway/envoy", inEnvoy, onSQLite)
	withPostgres = newVariant([]string{"base/config", "components/postgres"}, "gateway/authzd", inSidecar, onPostgres)
	withCentral  = newVariant([]string{"base/config", "components/central", "components/postgres"}, "authzd/authzd", inPods, onPostgres)
)

// newVariant returns a variant in which that POD/CONTAINER identifies itself as authzd to keyd.
func newVariant(folders []string, container string, own ...[]rule) variant {
	return variantOf(rules, folders, secretReaders(container), own...)
}

// inApplication is an application with its own Envoy and authzd. The rules of keyd do not apply.
var inApplication = variantOf(
	slices.DeleteFunc(slices.Clone(rules), func(r rule) bool {
		return slices.Contains([]string{"mutual-tls", "client-names", "dual-stack", "network"}, r.name)
	}),
	[]string{"components/sidecar", "overlays/sidecar"},
	map[string][]string{"key-api-token": {"shop/authzd"}, "authzd-tls": {"shop/authzd"}},
	inSidecar, []rule{{"application", application}},
)

func variantOf(rules []rule, folders []string, readers map[string][]string, own ...[]rule) variant {
	v := variant{folders: folders, readers: readers}
	v.rules = slices.Concat(rules, slices.Concat(own...), []rule{{"configuration", v.configuration}, {"secret-access", v.secretAccess}})
	return v
}

// findings returns the violations of all rules.
func (v variant) findings(m *manifests) []finding {
	var found []finding
	for _, rule := range v.rules {
		rule.check(m, func(where, format string, args ...any) {
			found = append(found, finding{rule.name, where, fmt.Sprintf(format, args...)})
		})
	}
	return found
}
