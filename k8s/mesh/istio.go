//go:build ignore

// The program prints the listeners, routes and clusters that istiod sends to an ingress gateway. It is compiled in the module of
// Istio (istio_test.go), because go.mod of this module must not have Istio's requirements.
//
// Usage: istio MESH_CONFIG MANIFESTS OUTPUT
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
	_ "istio.io/istio/pkg/config/xds" // the types that an EnvoyFilter may contain
	"istio.io/istio/pkg/test"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(meshFile, manifestsFile, output string) error {
	config, err := readMesh(meshFile)
	if err != nil {
		return err
	}
	manifests, err := os.ReadFile(manifestsFile)
	if err != nil {
		return err
	}
	services, configs := split(string(manifests))
	var out []byte
	translateErr := test.Wrap(func(t test.Failer) {
		server := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{MeshConfig: config, KubernetesObjectString: services, ConfigString: configs})
		gateway := server.SetupProxy(&model.Proxy{
			Type: model.Router, ConfigNamespace: "istio-ingress", Labels: map[string]string{"istio": "ingressgateway"},
			Metadata: &model.NodeMetadata{
				IstioVersion: "1.31.0", Namespace: "istio-ingress", Labels: map[string]string{"istio": "ingressgateway"},
			},
		})
		out, err = print(map[string][]proto.Message{
			"listeners": messages(server.Listeners(gateway)),
			"routes":    messages(server.Routes(gateway)),
			"clusters":  messages(server.Clusters(gateway)),
		})
	})
	if translateErr != nil {
		return translateErr
	}
	if err == nil {
		err = os.WriteFile(output, out, 0o600) // istiod logs to the standard output
	}
	return err
}

// readMesh returns the mesh configuration in Helm values for istiod, with Istio's defaults.
func readMesh(file string) (*meshconfig.MeshConfig, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var values struct {
		MeshConfig map[string]any `json:"meshConfig"`
	}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return nil, err
	}
	text, err = yaml.Marshal(values.MeshConfig)
	if err != nil {
		return nil, err
	}
	return mesh.ApplyMeshConfigDefaults(string(text))
}

var istioKind = regexp.MustCompile(`(?m)^apiVersion: \w+\.istio\.io/`)

// split returns the Services and the objects of Istio's API.
func split(manifests string) (services, configs string) {
	var s, c []string
	for _, doc := range strings.Split(manifests, "\n---\n") {
		switch {
		case istioKind.MatchString(doc):
			c = append(c, doc)
		case strings.Contains(doc, "\nkind: Service\n"):
			s = append(s, doc)
		}
	}
	return strings.Join(s, "\n---\n"), strings.Join(c, "\n---\n")
}

func messages[M proto.Message](list []M) (all []proto.Message) {
	for _, m := range list {
		all = append(all, m)
	}
	return all
}

func print(resources map[string][]proto.Message) ([]byte, error) {
	texts := map[string][]json.RawMessage{}
	for name, list := range resources {
		for _, m := range list {
			text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
			if err != nil {
				return nil, err
			}
			texts[name] = append(texts[name], text)
		}
	}
	text, err := json.Marshal(texts)
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(text)
}
