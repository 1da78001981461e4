package mesh

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// golden is the folder of the translations. overlays have one each.
const golden = "../../envoy/testdata/mesh"

var overlays = []string{"istio", "istio-envoyfilter", "envoy-gateway"}

// buildOverlay returns the manifests of an overlay.
func buildOverlay(t *testing.T, name string) string {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join("../overlays", name))
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var ofMesh = regexp.MustCompile(`(?m)^apiVersion: (\w+\.istio\.io|gateway\.)`)

// header returns the first line of a translation, with the digest of what was translated: the mesh's resources, and istiod's
// settings.
func header(t *testing.T, name string) string {
	t.Helper()
	h := sha256.New()
	for doc := range strings.SplitSeq(buildOverlay(t, name), "\n---\n") {
		if ofMesh.MatchString(doc) {
			h.Write([]byte(strings.TrimSpace(doc) + "\n"))
		}
	}
	if name != "envoy-gateway" {
		settings, err := os.ReadFile("../overlays/istio/mesh-config.yaml")
		if err != nil {
			t.Fatal(err)
		}
		h.Write(settings)
	}
	return fmt.Sprintf("# Made from k8s/overlays/%s (%x) by UPDATE=1 make test-mesh.\n", name, h.Sum(nil)[:8])
}

func TestTranslationsAreOfTheOverlays(t *testing.T) {
	for _, name := range overlays {
		file, err := os.ReadFile(filepath.Join(golden, name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := bufio.NewReader(bytes.NewReader(file)).ReadString('\n'); got != header(t, name) {
			t.Errorf("%s.yaml is of another version of the overlay: run UPDATE=1 make test-mesh", name)
		}
	}
}
