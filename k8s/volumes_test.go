package k8s

import (
	"os"
	"path/filepath"
	"strings"
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

// configFile creates a Pod's volumes and returns the configuration of a program in them. Paths of its other volumes are replaced.
func (m *manifests) configFile(t testing.TB, p pod, program string) string {
	t.Helper()
	folders := m.volumes(t, p)
	config := filepath.Join(folders[program], program+".yaml")
	for _, m := range p.container(program).VolumeMounts {
		if m.Name != "sockets" {
			replace(t, config, m.MountPath+"/", folders[m.Name]+"/")
		}
	}
	return config
}

// replace replaces all occurrences in a file, which has the mode of a Secret.
func replace(t testing.TB, file, from, to string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, []byte(strings.ReplaceAll(string(text), from, to)))
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
