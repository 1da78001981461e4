package k8s

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
)

// files returns what the build's ConfigMaps hold, by file name.
func (m *manifests) files() map[string]string {
	files := map[string]string{}
	for _, c := range m.configMaps {
		for name, text := range c.Data {
			files[name] = text
		}
	}
	return files
}

// configuration holds that what is deployed is what is shipped, byte for byte.
func configuration(m *manifests, report report) {
	deployed := m.files()
	for _, name := range []string{"envoy.yaml", "sds-certificate.yaml", "sds-ca.yaml", "authzd.yaml", "keyd.yaml"} {
		candidates := []string{filepath.Join("base/config", name), filepath.Join("components/operators-network", name)}
		same := false
		for _, path := range candidates {
			shipped, err := os.ReadFile(path)
			same = same || err == nil && string(shipped) == deployed[name]
		}
		if !same {
			report("ConfigMap", "%s is not the one in %s", name, strings.Join(candidates, " or "))
		}
	}
}

// stopTime is how long a program with that configuration may take to stop after SIGTERM.
func stopTime(report func(string, ...any), config string) time.Duration {
	var times struct {
		DrainDelay string `yaml:"drain_delay"`
		Drain      string
	}
	times.DrainDelay, times.Drain = "0s", "10s" // the programs' defaults
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
		TLS                                map[string]string
		ClientNames                        map[string][]string `yaml:"client_names"`
	}
	KeyAPI struct {
		URL string
		TLS map[string]string
	} `yaml:"key_api"`
}

// server returns a program's configuration as it is deployed.
func (m *manifests) server(name string, report report) serverConfig {
	var config serverConfig
	if err := yaml.Unmarshal([]byte(m.files()[name]), &config); err != nil {
		report(name, "%v", err)
	}
	return config
}

// dualStack: what the kubelet or another Pod calls listens on IPv4 and IPv6, and a Service has an address of each family
// that the cluster has.
func dualStack(m *manifests, report report) {
	keyd, authzd := m.server("keyd.yaml", report).Listen, m.server("authzd.yaml", report).Listen
	for _, address := range []string{keyd.Sidecars, keyd.Operators, keyd.Owners, keyd.Admin, authzd.Admin} {
		if !strings.HasPrefix(address, "unix://") && !strings.HasPrefix(address, "tcp://[::]:") {
			report("configuration", "listens on %q, must be on tcp://[::]:PORT", address)
		}
	}
	for _, s := range m.services {
		if policy := s.Spec.IPFamilyPolicy; policy == nil || *policy != corev1.IPFamilyPolicyPreferDualStack {
			report("Service "+s.Name, "ipFamilyPolicy must be PreferDualStack")
		}
	}
}

type envoyCluster struct {
	Name            string
	TransportSocket struct {
		TypedConfig struct {
			Type   string `yaml:"@type"`
			SNI    string
			Common map[string]any `yaml:"common_tls_context"`
		} `yaml:"typed_config"`
	} `yaml:"transport_socket"`
}

// mutualTLS: whatever crosses the network to keyd shows a certificate, and asks for keyd's.
func mutualTLS(m *manifests, report report) {
	files := m.files()
	read := func(name string, into any) {
		if err := yaml.Unmarshal([]byte(files[name]), into); err != nil {
			report(name, "%v", err)
		}
	}
	keyd, authzd := m.server("keyd.yaml", report), m.server("authzd.yaml", report)
	for _, address := range []string{keyd.Listen.Sidecars, keyd.Listen.Operators, keyd.Listen.Owners} {
		if !strings.HasPrefix(address, "unix://") && keyd.Listen.TLS["client_ca_file"] == "" {
			report("keyd.yaml", "%q is open to the network: listen.tls.client_ca_file must be set", address)
		}
	}
	if tls := authzd.KeyAPI.TLS; !strings.HasPrefix(authzd.KeyAPI.URL, "https://keyd:") || tls["ca_file"] == "" || tls["cert_file"] == "" {
		report("authzd.yaml", "key_api must be https://keyd with ca_file and cert_file")
	}

	var envoy struct {
		Static struct{ Clusters []envoyCluster } `yaml:"static_resources"`
	}
	var ca struct {
		Resources []struct {
			Context struct {
				CA    map[string]string `yaml:"trusted_ca"`
				Names []any             `yaml:"match_typed_subject_alt_names"`
			} `yaml:"validation_context"`
		}
	}
	read("envoy.yaml", &envoy)
	read("sds-ca.yaml", &ca)
	secured := false
	for _, c := range envoy.Static.Clusters {
		tls := c.TransportSocket.TypedConfig
		secured = secured || c.Name == "owners" && strings.HasSuffix(tls.Type, ".UpstreamTlsContext") && tls.SNI != "" &&
			tls.Common["tls_certificate_sds_secret_configs"] != nil && tls.Common["validation_context_sds_secret_config"] != nil
	}
	if !secured {
		report("envoy.yaml", "the cluster owners must present a certificate and check keyd's")
	}
	if len(ca.Resources) != 1 || ca.Resources[0].Context.CA["filename"] == "" || len(ca.Resources[0].Context.Names) == 0 {
		report("sds-ca.yaml", "must name the CA and the name in keyd's certificate")
	}
}
