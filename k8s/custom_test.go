package k8s

import (
	"encoding/json"

	"github.com/phantomrouter/phantom-authz/k8s/schema"
)

// custom is a custom resource that its CRD accepts. A missing field is the zero value.
type custom map[string]any

// decodeCustom validates a custom resource with its CRD. It returns false for other objects.
func (m *manifests) decodeCustom(doc map[string]any) (bool, error) {
	meshes, err := schema.Meshes()
	if err != nil {
		return false, err
	}
	if doc["kind"] == istiodValues {
		m.custom = append(m.custom, doc)
		return true, nil
	}
	if !meshes.Has(doc) {
		return false, nil
	}
	m.custom = append(m.custom, doc)
	return true, meshes.Validate(doc)
}

// ofKind returns the custom resources of a kind.
func (m *manifests) ofKind(kind string) (found []custom) {
	for _, c := range m.custom {
		if c["kind"] == kind {
			found = append(found, c)
		}
	}
	return found
}

// only returns the one custom resource of a kind. Another number is a violation.
func (m *manifests) only(kind string, report report) custom {
	found := m.ofKind(kind)
	if len(found) != 1 {
		report(kind, "there are %d: must be one", len(found))
		return custom{}
	}
	return found[0]
}

func (c custom) name() string {
	var meta struct{ Name string }
	read(c["metadata"], &meta)
	return meta.Name
}

// spec decodes the spec. The CRD has checked its types.
func (c custom) spec(into any) { read(c["spec"], into) }

func read(value, into any) {
	text, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		panic(err)
	}
}
