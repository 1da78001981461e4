package k8s

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"go.yaml.in/yaml/v4"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/phantomrouter/phantom-authz/k8s/schema"
)

// manifests are the objects of one build by kind.
type manifests struct {
	namespaces   []*corev1.Namespace
	accounts     []*corev1.ServiceAccount
	configMaps   []*corev1.ConfigMap
	secrets      []*corev1.Secret
	services     []*corev1.Service
	deployments  []*appsv1.Deployment
	statefulSets []*appsv1.StatefulSet
	policies     []*networkingv1.NetworkPolicy
	budgets      []*policyv1.PodDisruptionBudget
	scalers      []*autoscalingv2.HorizontalPodAutoscaler
	podMonitors  []*monitoringv1.PodMonitor
	custom       []custom // custom resources
}

// kustomize builds the directory as `kubectl kustomize` does, with its restrictions.
func kustomize(t testing.TB, folder string) []byte {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		t.Fatalf("kustomize %s: %v", folder, err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatalf("kustomize %s: %v", folder, err)
	}
	return text
}

// decoder decodes the kinds in use. Unknown and repeated fields are errors.
func decoder() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme, autoscalingv2.AddToScheme, admissionv1.AddToScheme, monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// validateCustom validates a resource of the Prometheus operator with its CRD. The types alone have no patterns and rules.
func validateCustom(doc map[string]any) error {
	if doc["apiVersion"] != "monitoring.coreos.com/v1" {
		return nil
	}
	kinds, err := schema.Monitoring()
	if err != nil {
		return err
	}
	return kinds.Validate(doc)
}

// documents returns the objects of a build.
func documents(t testing.TB, text []byte) []map[string]any {
	t.Helper()
	var docs []map[string]any
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var doc map[string]any
		switch err := d.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return docs
		case err != nil:
			t.Fatal(err)
		}
		docs = append(docs, doc)
	}
}

// decode converts the objects strictly to their types.
func decode(docs []map[string]any) (*manifests, error) {
	var m manifests
	decoder := decoder()
	for _, doc := range docs {
		if err := validateCustom(doc); err != nil {
			return nil, err
		}
		if isCustom, err := m.decodeCustom(doc); err != nil {
			return nil, err
		} else if isCustom {
			continue
		}
		text, err := yaml.Marshal(doc)
		if err != nil {
			return nil, err
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			return nil, err
		}
		switch o := object.(type) {
		case *corev1.Namespace:
			m.namespaces = append(m.namespaces, o)
		case *corev1.ServiceAccount:
			m.accounts = append(m.accounts, o)
		case *corev1.ConfigMap:
			m.configMaps = append(m.configMaps, o)
		case *corev1.Secret:
			m.secrets = append(m.secrets, o)
		case *corev1.Service:
			m.services = append(m.services, o)
		case *appsv1.Deployment:
			m.deployments = append(m.deployments, o)
		case *appsv1.StatefulSet:
			m.statefulSets = append(m.statefulSets, o)
		case *networkingv1.NetworkPolicy:
			m.policies = append(m.policies, o)
		case *policyv1.PodDisruptionBudget:
			m.budgets = append(m.budgets, o)
		case *admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding: // evaluated in ./admission
		case *autoscalingv2.HorizontalPodAutoscaler:
			m.scalers = append(m.scalers, o)
		case *monitoringv1.PodMonitor:
			m.podMonitors = append(m.podMonitors, o)
		default:
			return nil, errors.New("kind without a rule: " + object.GetObjectKind().GroupVersionKind().Kind)
		}
	}
	return &m, nil
}

// load builds and decodes the directory.
func load(t testing.TB, folder string) *manifests {
	t.Helper()
	m, err := decode(documents(t, kustomize(t, folder)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// mustPod returns the Pod of that name.
func (m *manifests) mustPod(t testing.TB, name string) pod {
	t.Helper()
	p, found := m.pod(name)
	if !found {
		t.Fatalf("missing Deployment or StatefulSet %s", name)
	}
	return p
}

// moduleOverlay returns a copy of the overlay module, beside that of the demo with its secrets.
func moduleOverlay(t testing.TB) string {
	t.Helper()
	return filepath.Join(filepath.Dir(demo(t)), "module")
}

// demo returns a copy of the demo's overlay and its dependencies, with the secrets that its script makes.
func demo(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, part := range []string{"base", "components", "names", "overlays", "admission"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(part)); err != nil {
			t.Fatal(err)
		}
	}
	overlay := filepath.Join(dir, "overlays", "demo")
	if err := os.RemoveAll(filepath.Join(overlay, "secrets")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(overlay, "secrets.sh")).CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh: %v\n%s", err, out)
	}
	return overlay
}

// overNetwork returns an overlay of the base with the component operators-network and others.
func overNetwork(t testing.TB, components ...string) string {
	t.Helper()
	components = append(components, "../../components/operators-network")
	return overlay(t, "namespace: phantom\nresources: [../../base]\ncomponents: ["+strings.Join(components, ", ")+"]\n")
}

// overlay returns a folder with that kustomization, beside a copy of the overlays with the demo's secrets.
func overlay(t testing.TB, text string) string {
	t.Helper()
	folder := filepath.Join(filepath.Dir(demo(t)), "test")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestManifestsFollowRules(t *testing.T) {
	for _, c := range []struct {
		folder  string
		variant variant
	}{
		{"base", withAuthzd},
		{demo(t), withAuthzd},
		{overNetwork(t), withAuthzd},
		{moduleOverlay(t), withModule},
		{overNetwork(t, "../../components/module"), withModule},
		{overNetwork(t, "../../components/monitoring"), withAuthzd},
		{"overlays/postgres", withPostgres},
		{"overlays/central", withCentral},
		{"overlays/sidecar", inApplication},
		{overNetwork(t, "../../components/monitoring", "../../components/module"), withModule},
	} {
		for _, f := range c.variant.findings(load(t, c.folder)) {
			t.Errorf("%s: %s", c.folder, f)
		}
	}
}
