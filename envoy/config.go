package envoy

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

//go:embed envoy.yaml
var config []byte

// Addresses are the addresses of an installation, as tcp://HOST:PORT or, for the clusters, unix:///PATH. An empty one
// leaves that of envoy.yaml.
//
// Listener and Monitor may be [::], which accepts IPv4 too, or localhost, which is 127.0.0.1 and [::1]. On a kernel without IPv6,
// which cannot bind these, [::] becomes 0.0.0.0 and localhost 127.0.0.1. The same applies to the [::] of envoy.yaml.
type Addresses struct {
	Listener string // for clients; an IP address or localhost
	Monitor  string // for probes and Prometheus; an IP address or localhost
	Admin    string // Envoy's admin listener, also the cluster admin; an IP address
	Authz    string // authzd's check listener
	Owners   string // keyd's listener for owners
	Upstream string // the API
}

// Render returns envoy.yaml with those addresses and without its comments. The error names all invalid addresses.
func Render(a Addresses) ([]byte, error) { return render(a, hasIPv6, nil) }

// render calls change, unless it is nil, with the document that has the addresses.
func render(a Addresses, hasIPv6 func() bool, change func(node) error) ([]byte, error) {
	var doc node
	if err := yaml.Unmarshal(config, &doc); err != nil {
		return nil, fmt.Errorf("envoy.yaml: %w", err)
	}
	static := doc.at("static_resources")
	err := setListener(doc.at("admin"), "admin", a.Admin)
	for i, listener := range []struct{ name, address string }{{"listener", a.Listener}, {"monitor", a.Monitor}} {
		err = errors.Join(err, setPublic(static.list("listeners")[i], listener.name, listener.address, hasIPv6))
	}
	for _, cluster := range static.list("clusters") {
		name, _ := cluster["name"].(string)
		address := map[string]string{"authz": a.Authz, "owners": a.Owners, "upstream": a.Upstream, "admin": a.Admin}[name]
		err = errors.Join(err, setCluster(cluster, name, address))
	}
	if err == nil && change != nil {
		err = change(doc)
	}
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(map[string]any(doc))
}

// Args returns the arguments of an envoy binary that runs a configuration file. Several may run on one machine. The access
// log is on standard output, delayed by 200 ms at most.
func Args(configFile string) []string {
	return []string{
		"-c", configFile, "--disable-hot-restart", "--concurrency", "2",
		"--log-level", "warning", "--file-flush-interval-msec", "200",
	}
}

// node is a mapping of envoy.yaml; the decoder makes nested mappings nodes too. A missing name panics: the file is
// embedded, so a test would detect it.
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

// hasIPv6 reports whether the kernel can bind [::]. It can with the sysctl disable_ipv6, and cannot with ipv6.disable=1.
func hasIPv6() bool {
	listener, err := net.Listen("tcp6", "[::]:0")
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

// setPublic sets a listener that may be on all addresses, and replaces an address that the kernel cannot bind.
func setPublic(listener node, name, address string, hasIPv6 func() bool) error {
	host, port, isLocal := strings.Cut(address, "tcp://localhost:")
	if isLocal && host == "" {
		address = "tcp://127.0.0.1:" + port
	}
	if err := setListener(listener, name, address); err != nil {
		return err
	}
	socket := listener.at("address").at("socket_address")
	switch {
	case isLocal && hasIPv6():
		loopback := node{"socket_address": node{"address": "::1", "port_value": socket["port_value"]}}
		listener["additional_addresses"] = []any{node{"address": loopback}}
	case socket["address"] == "::" && !hasIPv6():
		listener["address"] = node{"socket_address": node{"address": "0.0.0.0", "port_value": socket["port_value"]}}
	case socket["address"] == "::":
		socket["ipv4_compat"] = true
	}
	return nil
}

func setListener(listener node, name, address string) error {
	if address == "" {
		return nil
	}
	parsed, _, err := parseAddress(address)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, ok := parsed["socket_address"]; !ok {
		return fmt.Errorf("%s: %q is invalid: must be tcp://HOST:PORT", name, address)
	}
	listener["address"] = parsed
	return nil
}

func setCluster(cluster node, name, address string) error {
	if address == "" {
		return nil
	}
	parsed, kind, err := parseAddress(address)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	// The type of the cluster depends on the address: only a host name is resolved through DNS.
	cluster["type"] = kind
	delete(cluster, "dns_lookup_family")
	if kind == "STRICT_DNS" {
		cluster["dns_lookup_family"] = "V4_PREFERRED"
	}
	endpoint := cluster.at("load_assignment").list("endpoints")[0].list("lb_endpoints")[0].at("endpoint")
	endpoint["address"] = parsed
	return nil
}

// parseAddress returns Envoy's form of an address and the type of cluster that it requires.
func parseAddress(address string) (envoyAddress node, clusterType string, err error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok && strings.HasPrefix(path, "/") {
		return node{"pipe": node{"path": path}}, "STATIC", nil
	}
	hostPort, _ := strings.CutPrefix(address, "tcp://")
	host, text, err := net.SplitHostPort(hostPort)
	port, portErr := strconv.ParseUint(text, 10, 16)
	if hostPort == address || err != nil || portErr != nil || host == "" || port == 0 {
		return nil, "", fmt.Errorf("%q is invalid: must be tcp://HOST:PORT or unix:///PATH", address)
	}
	clusterType = "STRICT_DNS"
	if _, err := netip.ParseAddr(host); err == nil {
		clusterType = "STATIC"
	}
	return node{"socket_address": node{"address": host, "port_value": int(port)}}, clusterType, nil
}
