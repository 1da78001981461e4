package envoy

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed envoy.yaml
var config []byte

// Addresses are those that differ between one place to run Envoy and the next,
// as tcp://HOST:PORT or, for the clusters, unix:///PATH. An empty one stays as it
// is in envoy.yaml.
type Addresses struct {
	Listener string // where clients come in; an IP address
	Second   string // another address where clients come in; an IP address
	Admin    string // Envoy's own admin listener; an IP address
	Authz    string // authzd's check listener
	Owners   string // keyd's listener for owners
	Upstream string // the API itself
}

// Render returns envoy.yaml with those addresses, and without its comments. All
// else is what envoy.yaml says. All bad addresses are named in one error.
func Render(a Addresses) ([]byte, error) {
	var doc node
	if err := yaml.Unmarshal(config, &doc); err != nil {
		return nil, fmt.Errorf("envoy.yaml: %w", err)
	}
	static := doc.at("static_resources")
	err := errors.Join(
		setListener(static.list("listeners")[0], "listener", a.Listener),
		addListenerAddress(static.list("listeners")[0], a.Second),
		setListener(doc.at("admin"), "admin", a.Admin),
	)
	for _, cluster := range static.list("clusters") {
		name, _ := cluster["name"].(string)
		address := map[string]string{"authz": a.Authz, "owners": a.Owners, "upstream": a.Upstream}[name]
		err = errors.Join(err, setCluster(cluster, name, address))
	}
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(map[string]any(doc))
}

// Args returns the arguments that an envoy binary runs a configuration file with,
// as one of possibly several on this machine. Its access log is on standard output
// within some 200 ms.
func Args(configFile string) []string {
	return []string{
		"-c", configFile, "--disable-hot-restart", "--concurrency", "2",
		"--log-level", "warning", "--file-flush-interval-msec", "200",
	}
}

// node is a mapping of envoy.yaml; the decoder makes the mappings inside it nodes
// too. The structure of the file is known: a name that is not there panics, and
// the tests would see it.
type node map[string]any

func (n node) at(name string) node { return n[name].(node) }

func (n node) list(name string) []node {
	items := n[name].([]any)
	nodes := make([]node, len(items))
	for i, item := range items {
		nodes[i] = item.(node)
	}
	return nodes
}

func setListener(listener node, name, address string) error {
	if address == "" {
		return nil
	}
	parsed, err := parseSocket(name, address)
	if err != nil {
		return err
	}
	listener["address"] = parsed
	return nil
}

func addListenerAddress(listener node, address string) error {
	if address == "" {
		return nil
	}
	parsed, err := parseSocket("second listener", address)
	if err != nil {
		return err
	}
	listener["additional_addresses"] = []node{{"address": parsed}}
	return nil
}

// parseSocket returns Envoy's form of the address of a listener.
func parseSocket(name, address string) (node, error) {
	parsed, _, err := parseAddress(address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if _, ok := parsed["socket_address"]; !ok {
		return nil, fmt.Errorf("%s: %q must be tcp://HOST:PORT", name, address)
	}
	return parsed, nil
}

func setCluster(cluster node, name, address string) error {
	if address == "" {
		return nil
	}
	parsed, kind, err := parseAddress(address)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	// How an address is looked up goes with the address: a pipe cannot be asked of DNS.
	cluster["type"] = kind
	delete(cluster, "dns_lookup_family")
	if kind == "STRICT_DNS" {
		cluster["dns_lookup_family"] = "V4_PREFERRED"
	}
	endpoint := cluster.at("load_assignment").list("endpoints")[0].list("lb_endpoints")[0].at("endpoint")
	endpoint["address"] = parsed
	return nil
}

// parseAddress returns Envoy's form of an address and the type of cluster that it
// needs.
func parseAddress(address string) (envoyAddress node, clusterType string, err error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok && strings.HasPrefix(path, "/") {
		return node{"pipe": node{"path": path}}, "STATIC", nil
	}
	hostPort, _ := strings.CutPrefix(address, "tcp://")
	host, text, err := net.SplitHostPort(hostPort)
	port, portErr := strconv.ParseUint(text, 10, 16)
	if hostPort == address || err != nil || portErr != nil || host == "" || port == 0 {
		return nil, "", fmt.Errorf("%q must be tcp://HOST:PORT or unix:///PATH", address)
	}
	clusterType = "STRICT_DNS"
	if _, err := netip.ParseAddr(host); err == nil {
		clusterType = "STATIC"
	}
	return node{"socket_address": node{"address": host, "port_value": int(port)}}, clusterType, nil
}
