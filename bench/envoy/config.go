package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// requestPath is the path of all requests. In envoy.yaml its route admits every principal.
const requestPath = "/api/v1/me"

// object is a mapping of Envoy's configuration.
type object = map[string]any

// authorization is what a variant adds to the configuration. The zero value adds nothing.
type authorization struct {
	filter   object   // in http_filters
	route    object   // the filter's configuration of the route; nil: none
	clusters []object // that the filter uses
	keys     []string // that it allows; nil: those of keyd
	log      []object // the access log; nil: none
}

// configuration returns an Envoy configuration whose only route answers 200 itself, so that no upstream hides the cost of the
// filter. All variants have the same connection manager.
func configuration(listener, admin string, a authorization) ([]byte, error) {
	var filters []object
	if a.filter != nil {
		filters = append(filters, a.filter)
	}
	filters = append(filters, object{"name": "envoy.filters.http.router", "typed_config": extension("filters.http.router.v3.Router", nil)})
	route := object{"match": object{"prefix": "/"}, "direct_response": object{"status": 200}}
	if a.route != nil {
		route["typed_per_filter_config"] = object{a.filter["name"].(string): a.route}
	}
	http := extension("filters.network.http_connection_manager.v3.HttpConnectionManager", object{
		"stat_prefix":  "bench",
		"http_filters": filters,
		"route_config": object{"virtual_hosts": []object{{"name": "api", "domains": []string{"*"}, "routes": []object{route}}}},
	})
	if a.log != nil {
		http["access_log"] = a.log
	}
	public, err := address(listener)
	if err != nil {
		return nil, err
	}
	operators, err := address(admin)
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(object{
		"admin": object{"address": operators},
		"static_resources": object{
			"listeners": []object{{
				"address":       public,
				"filter_chains": []object{{"filters": []object{{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}}}},
			}},
			"clusters": a.clusters,
		},
	})
}

// extension returns the configuration of an extension of Envoy.
func extension(name string, fields object) object {
	config := object{"@type": "type.googleapis.com/envoy.extensions." + name}
	for field, value := range fields {
		config[field] = value
	}
	return config
}

func address(hostPort string) (object, error) {
	host, text, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	return object{"socket_address": object{"address": host, "port_value": port}}, err
}

// extAuthz returns the filter and the cluster of envoy.yaml, with a sidecar at the socket.
func extAuthz(socket string) (a authorization, err error) {
	text, err := envoy.Render(envoy.Addresses{Authz: "unix://" + socket})
	if err != nil {
		return a, err
	}
	return extract(text, "envoy.filters.http.ext_authz", "authz")
}

// accessLog returns the access log of envoy.yaml without a filter.
func accessLog() (a authorization, err error) {
	text, err := envoy.Render(envoy.Addresses{})
	if err != nil {
		return a, err
	}
	var config rendered
	err = yaml.Unmarshal(text, &config)
	a.log = config.manager().AccessLog
	return a, err
}

// module returns the filter of envoy.yaml with the module. The fields are its filter_config.
func module(fields object) (a authorization, err error) {
	text, err := envoy.RenderModule(envoy.Addresses{}, fields)
	if err != nil {
		return a, err
	}
	return extract(text, "phantom_authz")
}

// rendered is what the benchmark uses of a configuration that the package envoy renders.
type rendered struct {
	Static struct {
		Listeners []struct {
			Chains []struct {
				Filters []struct {
					Manager manager `yaml:"typed_config"`
				}
			} `yaml:"filter_chains"`
		}
		Clusters []object
	} `yaml:"static_resources"`
}

// manager is a connection manager.
type manager struct {
	Filters   []object `yaml:"http_filters"`
	AccessLog []object `yaml:"access_log"`
	Routes    struct {
		Hosts []struct{ Routes []object } `yaml:"virtual_hosts"`
	} `yaml:"route_config"`
}

func (r rendered) manager() manager { return r.Static.Listeners[0].Chains[0].Filters[0].Manager }

// extract returns a filter of a configuration, its configuration of the route to requestPath, and clusters.
func extract(text []byte, filter string, clusters ...string) (a authorization, err error) {
	var config rendered
	if err := yaml.Unmarshal(text, &config); err != nil {
		return a, err
	}
	a.filter = named(config.manager().Filters, filter)
	for _, name := range clusters {
		a.clusters = append(a.clusters, named(config.Static.Clusters, name))
	}
	for _, route := range config.manager().Routes.Hosts[0].Routes {
		if match, _ := route["match"].(object); match["path"] == requestPath {
			settings, _ := route["typed_per_filter_config"].(object)
			a.route, _ = settings[filter].(object)
		}
	}
	if a.filter == nil || a.route == nil || slices.ContainsFunc(a.clusters, func(c object) bool { return c == nil }) {
		return a, fmt.Errorf("envoy.yaml has no filter %s, no route to %s for it, or none of the clusters %q", filter, requestPath, clusters)
	}
	return a, nil
}

func named(all []object, name string) object {
	for _, one := range all {
		if one["name"] == name {
			return one
		}
	}
	return nil
}

// apiKeyAuth returns Envoy's filter that compares keys with a list in its configuration. It does what it can of authzd's work: it
// removes the key from the request and adds the name of the client. Its keys are n others, because the testbed rejects keys of
// keyd in files.
func apiKeyAuth(n int) (a authorization) {
	credentials := make([]object, n)
	for i := range credentials {
		a.keys = append(a.keys, credential.Mint(credential.Key).Reveal())
		credentials[i] = object{"key": a.keys[i], "client": fmt.Sprintf("client-%d", i)}
	}
	a.filter = object{
		"name": "envoy.filters.http.api_key_auth",
		"typed_config": extension("filters.http.api_key_auth.v3.ApiKeyAuth", object{
			"credentials": credentials,
			"key_sources": []object{{"header": "authorization"}},
			"forwarding":  object{"header": "x-phantom-client", "hide_credentials": true},
		}),
	}
	return a
}
