package k8s

import (
	"fmt"
	"slices"
)

// variant is one of the ways in which the gateway checks requests.
type variant struct {
	folders []string            // of the files in ConfigMaps; a later folder replaces files of an earlier one
	readers map[string][]string // the only containers that may mount each Secret
	rules   []rule
}

// withAuthzd is the base, withModule the component module.
var (
	withAuthzd = newVariant([]string{"base/config"}, "authzd",
		rule{"native-sidecar", forPod("gateway", nativeSidecar)},
		rule{"socket", forPod("gateway", socket)})
	withModule = newVariant([]string{"base/config", "components/module"}, "envoy",
		rule{"module", forPod("gateway", moduleInEnvoy)},
		rule{"module-file", moduleFile})
)

// newVariant returns a variant in which a container of the gateway identifies itself as authzd to keyd.
func newVariant(folders []string, container string, own ...rule) variant {
	v := variant{folders: folders, readers: secretReaders(container)}
	v.rules = slices.Concat(rules, own, []rule{{"configuration", v.configuration}, {"secret-access", v.secretAccess}})
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
