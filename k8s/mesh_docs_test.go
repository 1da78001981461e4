package k8s

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"

	"go.yaml.in/yaml/v4"
)

var applied = regexp.MustCompile("`kubectl apply -k (k8s/\\S+)`")

// TestMeshPagesShowTheOverlays: the commands name overlays that build, and the rules of istio.md are those of the overlay.
func TestMeshPagesShowTheOverlays(t *testing.T) {
	for _, page := range []string{"istio.md", "envoy-gateway.md"} {
		text, err := os.ReadFile(filepath.Join("../docs", page))
		if err != nil {
			t.Fatal(err)
		}
		commands := applied.FindAllSubmatch(text, -1)
		if len(commands) == 0 {
			t.Errorf("%s: no kubectl apply", page)
		}
		for _, command := range commands {
			kustomize(t, filepath.Join("..", string(command[1])))
		}
		for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1) {
			var shown, own any
			if err := yaml.Unmarshal(block[1], &shown); err != nil {
				t.Fatal(err)
			}
			for _, doc := range meshOverlays[0].documents(t) {
				if doc["kind"] == "AuthorizationPolicy" {
					own = map[string]any{"rules": doc["spec"].(map[string]any)["rules"]}
				}
			}
			if !reflect.DeepEqual(own, shown) {
				t.Errorf("%s shows %v: must be %v", page, shown, own)
			}
		}
	}
}
