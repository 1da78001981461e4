package k8s

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// prefixed is an overlay of the demo in another namespace, whose names have a prefix and a suffix.
const prefixed = `
namespace: eu
namePrefix: eu-
nameSuffix: "-1"
resources: [../demo]
transformers: [../../names/keyd, ../../names/upstream]
`

// addresses returns the HOST:PORT by its place of all addresses on the network to which the programs connect.
func (m *manifests) addresses(t *testing.T) map[string]string {
	t.Helper()
	report := func(where, format string, args ...any) { t.Errorf(where+": "+format, args...) }
	found := map[string]string{}
	keyAPI, err := url.Parse(m.server("authzd.yaml", report).KeyAPI.URL)
	if err != nil {
		t.Fatal(err)
	}
	found["authzd.yaml: key_api.url"] = keyAPI.Host
	for _, c := range m.envoy(report).Static.Clusters {
		for _, e := range c.Load.Endpoints {
			for _, e := range e.Endpoints {
				if at := e.Endpoint.Address.Socket; at.Address != "" && at.Address != "127.0.0.1" {
					found["envoy.yaml: cluster "+c.Name] = fmt.Sprintf("%s:%d", at.Address, at.Port)
				}
			}
		}
	}
	return found
}

// prefixedCentral is the same with authzd in Pods of its own.
const prefixedCentral = `
namespace: eu
namePrefix: eu-
nameSuffix: "-1"
resources: [../demo]
components: [../../components/central]
transformers: [../../names/keyd, ../../names/upstream, ../../names/authzd]
`

// A renamed Service is renamed in each configuration, and the ConfigMaps get new hashes, which cause a rollout.
func TestAddressesFollowServices(t *testing.T) {
	want := map[string]string{
		"authzd.yaml: key_api.url": "eu-keyd-1:8080", "envoy.yaml: cluster owners": "eu-keyd-1:8083", "envoy.yaml: cluster upstream": "eu-upstream-1:8080",
	}
	follow(t, overlay(t, prefixed), demo(t), want)
	want["envoy.yaml: cluster authz"] = "eu-authzd-1:9191"
	follow(t, overlay(t, prefixedCentral), overlay(t, "namespace: phantom\nresources: [../demo]\ncomponents: [../../components/central]\n"), want)
}

func follow(t *testing.T, folder, without string, want map[string]string) {
	t.Helper()
	m, before := load(t, folder), load(t, without)
	var services []string
	for _, s := range m.services {
		for _, p := range s.Spec.Ports {
			services = append(services, fmt.Sprintf("%s:%d", s.Name, p.Port))
		}
	}
	addresses := m.addresses(t)
	if !maps.Equal(addresses, want) {
		t.Errorf("addresses %v, want %v", addresses, want)
	}
	for place, address := range addresses {
		if !slices.Contains(services, address) {
			t.Errorf("%s is %s, which is not a Service: %v", place, address, services)
		}
	}
	references(m, func(where, format string, args ...any) { t.Errorf(where+": "+format, args...) })
	for i, c := range m.configMaps {
		old, now := before.configMaps[i].Name, c.Name
		changed := old[strings.LastIndex(old, "-"):] != now[strings.LastIndex(now, "-"):]
		if want := !strings.HasPrefix(old, "keyd-"); changed != want {
			t.Errorf("ConfigMap %s, with other names %s: other hash %t, want %t", old, now, changed, want)
		}
	}
}

// Only addresses change.
func TestNamesChangeOnlyAddresses(t *testing.T) {
	folder := overlay(t, prefixed)
	files, before := load(t, folder).files(), load(t, strings.TrimSuffix(folder, "test")+"demo").files()
	for name, text := range before {
		var want, got any
		text = strings.NewReplacer("https://keyd:", "https://eu-keyd-1:", "address: keyd,", "address: eu-keyd-1,", "address: upstream,", "address: eu-upstream-1,").Replace(text)
		if err := errors.Join(yaml.Unmarshal([]byte(text), &want), yaml.Unmarshal([]byte(files[name]), &got)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s has other changes:\n%s", name, files[name])
		}
	}
	if len(before) < 5 || len(files) != len(before) {
		t.Errorf("%d files, before %d", len(files), len(before))
	}
}
