package k8s

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// volumes creates a Pod's volumes as the kubelet does, and returns their directories by name.
func (m *manifests) volumes(t testing.TB, p pod) map[string]string {
	t.Helper()
	folders := map[string]string{}
	for _, c := range p.claims {
		folders[c.Name] = t.TempDir()
	}
	for _, v := range p.template.Spec.Volumes {
		folders[v.Name] = t.TempDir()
		for _, source := range projections(v) {
			data, items := m.data(source)
			for key, content := range data {
				path := key
				for _, item := range items {
					if item.Key == key {
						path = item.Path
					}
				}
				write(t, filepath.Join(folders[v.Name], path), content)
			}
		}
	}
	return folders
}

// data returns the files of a ConfigMap or a Secret, and the paths at which they are mounted.
func (m *manifests) data(source corev1.VolumeProjection) (data map[string][]byte, items []corev1.KeyToPath) {
	data = map[string][]byte{}
	if source.ConfigMap != nil {
		for _, c := range m.configMaps {
			for key, text := range c.Data {
				if c.Name == source.ConfigMap.Name {
					data[key] = []byte(text)
				}
			}
		}
		return data, source.ConfigMap.Items
	}
	for _, s := range m.secrets {
		if source.Secret != nil && s.Name == source.Secret.Name {
			return s.Data, source.Secret.Items
		}
	}
	return data, nil
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o440); err != nil {
		t.Fatal(err)
	}
}
