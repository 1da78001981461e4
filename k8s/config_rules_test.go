package k8s

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	corev1 "k8s.io/api/core/v1"
)

// files returns the files of all ConfigMaps by name.
func (m *manifests) files() map[string]string {
	files := map[string]string{}
	for _, c := range m.configMaps {
		maps.Copy(files, c.Data)
	}
	return files
}

// configuration checks that the deployed files are those of the repository, byte for byte.
func (v variant) configuration(m *manifests, report report) {
	deployed := m.files()
	names := []string{"envoy.yaml", "authzd.yaml"}
	if slices.Contains(v.folders, "base/config") {
		names = append(names, "sds-certificate.yaml", "sds-ca.yaml", "keyd.yaml")
	}
	if slices.Contains(v.folders, "components/central") {
		names = append(names, "sds-authzd-ca.yaml")
	}
	for _, name := range names {
		var own []byte
		for _, folder := range v.folders {
			if text, err := os.ReadFile(filepath.Join(folder, name)); err == nil {
				own = text
			}
		}
		component, _ := os.ReadFile(filepath.Join("components/operators-network", name))
		if text := deployed[name]; text == "" || text != string(own) && text != string(component) {
			report("ConfigMap", "%s differs from the file of the repository", name)
		}
	}
}

// stopTime returns how long a program with that configuration may take to stop after SIGTERM.
func stopTime(report func(string, ...any), config string) time.Duration {
	var times struct {
		DrainDelay string `yaml:"drain_delay"`
		Drain      string
	}
	times.DrainDelay, times.Drain = "0s", "10s" // the defaults
	err := yaml.Unmarshal([]byte(config), &times)
	delay, delayErr := time.ParseDuration(times.DrainDelay)
	drain, drainErr := time.ParseDuration(times.Drain)
	if err := errors.Join(err, delayErr, drainErr); err != nil {
		report("drain times: %v", err)
	}
	return delay + drain
}

type serverConfig struct {
	Listen struct {
		Sidecars, Operators, Owners, Admin string
		Check                              []string
		TLS                                map[string]string
		ClientNames                        map[string][]string `yaml:"client_names"`
	}
	KeyAPI struct {
		URL string
		TLS map[string]string
	} `yaml:"key_api"`
}

// server returns the deployed configuration of a program.
func (m *manifests) server(name string, report report) (config serverConfig) {
	readYAML(m, name, &config, report)
	return config
}

// readYAML decodes a file of a ConfigMap.
func readYAML(m *manifests, name string, into any, report report) {
	if err := yaml.Unmarshal([]byte(m.files()[name]), into); err != nil {
		report(name, "%v", err)
	}
}

// dualStack checks that listeners for the kubelet and for other Pods are on IPv4 and IPv6, and that a Service has an address
// of each family of the cluster.
func dualStack(m *manifests, report report) {
	keyd, authzd := m.server("keyd.yaml", report).Listen, m.server("authzd.yaml", report).Listen
	for _, address := range append(authzd.Check, keyd.Sidecars, keyd.Operators, keyd.Owners, keyd.Admin, authzd.Admin) {
		if !strings.HasPrefix(address, "unix://") && !strings.HasPrefix(address, "tcp://[::]:") {
			report("configuration", "address %q is invalid: must be tcp://[::]:PORT", address)
		}
	}
	for _, s := range m.services {
		if policy := s.Spec.IPFamilyPolicy; policy == nil || *policy != corev1.IPFamilyPolicyPreferDualStack {
			report("Service "+s.Name, "ipFamilyPolicy must be PreferDualStack")
		}
	}
}

// mutualTLS checks that connections to keyd and authzd over the network use certificates on both sides.
func mutualTLS(m *manifests, report report) {
	keyd, authzd := m.server("keyd.yaml", report), m.server("authzd.yaml", report)
	for _, address := range []string{keyd.Listen.Sidecars, keyd.Listen.Operators, keyd.Listen.Owners} {
		if !strings.HasPrefix(address, "unix://") && keyd.Listen.TLS["client_ca_file"] == "" {
			report("keyd.yaml", "listen.tls.client_ca_file must be set: %q is on the network", address)
		}
	}
	if tls := authzd.KeyAPI.TLS; !strings.HasPrefix(authzd.KeyAPI.URL, "https://keyd:") || tls["ca_file"] == "" || tls["cert_file"] == "" {
		report("authzd.yaml", "key_api.url must be https://keyd:PORT, with tls.ca_file and tls.cert_file")
	}

	mutualTLSOfEnvoy(m, "owners", "sds-ca.yaml", report)
	if _, central := m.pod("authzd"); central {
		if authzd.Listen.TLS["client_ca_file"] == "" || authzd.Listen.TLS["cert_file"] == "" {
			report("authzd.yaml", "listen.tls must have a certificate and client_ca_file: checks arrive from the network")
		}
		mutualTLSOfEnvoy(m, "authz", "sds-authzd-ca.yaml", report)
	}
}

// mutualTLSOfEnvoy checks that Envoy presents a certificate to a cluster, and verifies the CA and name of the cluster's.
func mutualTLSOfEnvoy(m *manifests, cluster, file string, report report) {
	var ca struct {
		Resources []struct {
			Context struct {
				CA    map[string]string `yaml:"trusted_ca"`
				Names []any             `yaml:"match_typed_subject_alt_names"`
			} `yaml:"validation_context"`
		}
	}
	readYAML(m, file, &ca, report)
	if !slices.ContainsFunc(m.envoy(report).Static.Clusters, func(c envoyCluster) bool {
		tls := c.TransportSocket.TypedConfig
		return c.Name == cluster && strings.HasSuffix(tls.Type, ".UpstreamTlsContext") && tls.SNI != "" &&
			tls.Common["tls_certificate_sds_secret_configs"] != nil && tls.Common["validation_context_sds_secret_config"] != nil
	}) {
		report("envoy.yaml", "the cluster %s must present a certificate and verify that of the other side", cluster)
	}
	if len(ca.Resources) != 1 || ca.Resources[0].Context.CA["filename"] == "" || len(ca.Resources[0].Context.Names) == 0 {
		report(file, "must contain the CA and the name in the certificate")
	}
}
