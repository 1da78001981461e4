package k8s

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// secretReaders returns the only containers that may mount each Secret. authzd is POD/CONTAINER. The gateway cannot act as an operator. Neither authzd nor
// Envoy can present the other's certificate, unless Envoy has the module, which is authzd to keyd.
func secretReaders(authzd string) map[string][]string {
	return map[string][]string{
		"key-api-token":   {authzd, "keyd/keyd"},
		"operator-tokens": {"keyd/keyd"},
		"authzd-tls":      {authzd},
		"envoy-tls":       {"gateway/envoy"},
		"keyd-tls":        {"keyd/keyd"},
		"keyd-store":      {"keyd/keyd"},
	}
}

// secretAccess compares the mounted Secrets with the readers.
func (v variant) secretAccess(m *manifests, report report) {
	got := map[string][]string{}
	for name := range v.readers {
		got[name] = nil
	}
	for _, p := range m.pods() {
		volumes := map[string][]corev1.VolumeProjection{}
		for _, v := range p.template.Spec.Volumes {
			volumes[v.Name] = projections(v)
		}
		for _, c := range p.containers() {
			for _, mount := range c.VolumeMounts {
				for _, source := range volumes[mount.Name] {
					if source.Secret != nil {
						got[source.Secret.Name] = append(got[source.Secret.Name], p.name+"/"+c.Name)
					}
				}
			}
		}
	}
	for name, readers := range got {
		if name == "keyd-store" && len(readers) == 0 {
			continue // SQLite
		}
		if slices.Sort(readers); !slices.Equal(readers, v.readers[name]) {
			report("Secret "+name, "is mounted by %v: must be %v", readers, v.readers[name])
		}
	}
}

// clientNames checks that keyd accepts each name at one listener only, and that the certificates contain these names.
func clientNames(m *manifests, report report) {
	keyd := m.server("keyd.yaml", report).Listen
	listeners := map[string]string{"sidecars": keyd.Sidecars, "operators": keyd.Operators, "owners": keyd.Owners}
	accepted := map[string]string{}
	for _, listener := range slices.Sorted(maps.Keys(listeners)) {
		names := keyd.ClientNames[listener]
		if len(names) == 0 && !strings.HasPrefix(listeners[listener], "unix://") {
			report("keyd.yaml", "listen.client_names.%s must be set", listener)
		}
		for _, name := range names {
			if other := accepted[name]; other != "" {
				report("keyd.yaml", "listen.client_names contains %q for %s and for %s: must be for one", name, other, listener)
			}
			accepted[name] = listener
		}
	}
	for _, s := range m.secrets {
		listener := map[string]string{"authzd-tls": "sidecars", "envoy-tls": "owners"}[s.Name]
		if listener == "" {
			continue
		}
		names, err := certificateNames(s.Data["tls.crt"])
		if err != nil {
			report("Secret "+s.Name, "tls.crt: %v", err)
		}
		if len(names) == 0 || slices.ContainsFunc(names, func(name string) bool { return accepted[name] != listener }) {
			report("Secret "+s.Name, "tls.crt has the names %q: must have names that keyd accepts for %s only", names, listener)
		}
	}
}

// certificateNames returns the DNS and URI names of the first certificate.
func certificateNames(text []byte) ([]string, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("not PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	names := certificate.DNSNames
	for _, uri := range certificate.URIs {
		names = append(names, uri.String())
	}
	return names, nil
}
