//go:build cluster

package cluster

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/phantomrouter/phantom-authz/k8s/helm"
	"github.com/phantomrouter/phantom-authz/k8s/schema"
)

func TestCluster(t *testing.T) {
	s := connect(t, start(t))
	installCRDs(t, s)
	folder := manifests(t)
	overlays, err := filepath.Glob(filepath.Join(folder, "overlays", "*", "kustomization.yaml"))
	if err != nil || len(overlays) == 0 {
		t.Fatal("no overlays", err)
	}
	for _, file := range append(overlays, filepath.Join(folder, "base", "kustomization.yaml")) {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) { applyAll(t, s, kustomize(t, dir)) })
	}
	for _, store := range []string{"sqlite", "postgres"} {
		t.Run("chart with "+store, func(t *testing.T) {
			text, err := helm.Template("../chart", "x", map[string]any{"podMonitors": true, "keyd": map[string]any{"store": store}})
			if err != nil {
				t.Fatal(err)
			}
			objects := decode(t, text)
			for _, o := range objects {
				o.SetNamespace("phantom") // as helm does
			}
			applyAll(t, s, objects)
		})
	}
	t.Run("admission", func(t *testing.T) { testAdmission(t, s, folder) })
}

// applyAll applies the objects in their order, and removes them. Namespaces stay: they have no controller here.
func applyAll(t *testing.T, s *server, objects []*unstructured.Unstructured) {
	t.Helper()
	for _, o := range objects {
		if ns := o.GetNamespace(); ns != "" {
			if err := s.apply(t.Context(), namespace(ns, nil)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, o := range objects {
		if err := s.apply(t.Context(), o); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	t.Logf("%d objects", len(objects))
	for _, o := range objects {
		if o.GetKind() == "Namespace" {
			continue
		}
		if err := s.remove(t.Context(), o); err != nil {
			t.Errorf("remove %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// testAdmission shows that the policies refuse in a labelled namespace, and only there.
func testAdmission(t *testing.T, s *server, folder string) {
	for _, o := range kustomize(t, filepath.Join(folder, "admission")) {
		if err := s.apply(t.Context(), o); err != nil {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	for name, labels := range map[string]map[string]string{"guarded": {"phantom.io/fail-closed": "true"}, "other": nil} {
		if err := s.apply(t.Context(), namespace(name, labels)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ text, message string }{
		{`{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {envoy.yaml: "failure_mode_allow: true"}}`, "failure_mode_allow must be false"},
		{`{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {envoy.yaml: "{\"shadow_mode\": true}"}}`, "shadow_mode must be false"},
		{`{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {authzd.yaml: "key_api: {url: x}\nshadow: true\n"}}`, "shadow must be false"},
		{`{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {mesh: "failOpen: true"}}`, "failOpen must be false"},
		{`{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: x}, spec: {configPatches: [{applyTo: HTTP_FILTER,
			patch: {operation: MERGE, value: {typed_config: {failure_mode_allow: true}}}}]}}`, "failure_mode_allow must be false"},
		{`{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: SecurityPolicy, metadata: {name: x}, spec: {
			targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: x}],
			extAuth: {failOpen: true, grpc: {backendRefs: [{name: authz, port: 9191}]}}}}`, "spec.extAuth.failOpen must be false"},
	} {
		object := decode(t, []byte(test.text))[0]
		object.SetNamespace("guarded")
		eventually(t, "refused "+test.message, func() error { // policies apply a moment after they are stored
			err := s.apply(t.Context(), object)
			if err == nil {
				return errors.New("applied")
			}
			if !strings.Contains(err.Error(), test.message) {
				return err
			}
			return nil
		})
		object.SetNamespace("other")
		if err := s.apply(t.Context(), object); err != nil {
			t.Errorf("refused in a namespace without the label: %v", err)
		}
	}
	closed := decode(t, []byte(`{apiVersion: v1, kind: ConfigMap, metadata: {name: closed, namespace: guarded}, data: {envoy.yaml: "failure_mode_allow: false"}}`))
	if err := s.apply(t.Context(), closed[0]); err != nil {
		t.Error(err)
	}
}

func installCRDs(t *testing.T, s *server) {
	t.Helper()
	texts, err := schema.MeshCRDs()
	if err != nil {
		t.Fatal(err)
	}
	monitoring, err := schema.MonitoringCRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range append(texts, monitoring) {
		for _, o := range decode(t, text) {
			if o.GetKind() != "CustomResourceDefinition" {
				continue
			}
			if err := s.apply(t.Context(), o); err != nil {
				t.Fatalf("%s: %v", o.GetName(), err)
			}
		}
	}
}

func namespace(name string, labels map[string]string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}}
	o.SetLabels(labels)
	return o
}

// manifests returns a copy of the folder k8s with the secrets of a trial.
func manifests(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, part := range []string{"base", "components", "overlays", "names", "admission"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join("..", part))); err != nil {
			t.Fatal(err)
		}
	}
	script := filepath.Join(dir, "overlays", "demo", "secrets.sh")
	if out, err := exec.CommandContext(t.Context(), "bash", script).CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh: %v\n%s", err, out)
	}
	return dir
}

func kustomize(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("kustomize %s: %v", dir, err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, text)
}

func decode(t *testing.T, text []byte) (objects []*unstructured.Unstructured) {
	t.Helper()
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		o := &unstructured.Unstructured{}
		switch err := d.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return objects
		case err != nil:
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}
