package envoy

import (
	"errors"
	"fmt"
	"maps"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const (
	extAuthz     = "envoy.filters.http.ext_authz"
	mutation     = "envoy.filters.http.header_mutation"
	moduleName   = "phantom_authz"
	moduleFilter = "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
	moduleRoute  = "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute"
	filterConfig = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
	structType   = "type.googleapis.com/google.protobuf.Struct"
)

// ModuleEnv returns the variables that an envoy binary needs to load the module from the folder of
// libphantom_authz.so.
func ModuleEnv(folder string) []string {
	return []string{"ENVOY_DYNAMIC_MODULES_SEARCH_PATH=" + folder}
}

// RenderModule is Render with the Envoy module in place of ext_authz and authzd. The fields are the
// module's filter_config. Requirements, and routes that are not checked, stay as in envoy.yaml.
func RenderModule(a Addresses, fields map[string]any) ([]byte, error) {
	return render(a, hasIPv6, func(doc node) error { return useModule(doc, fields) })
}

// UseModule is RenderModule with the addresses of a file that was made from envoy.yaml.
func UseModule(file []byte, fields map[string]any) (text []byte, err error) {
	var doc node
	if err := yaml.Unmarshal(file, &doc); err != nil {
		return nil, err
	}
	defer func() {
		if recover() != nil { // at and list
			text, err = nil, errNotMade
		}
	}()
	if err := useModule(doc, fields); err != nil {
		return nil, err
	}
	return yaml.Marshal(map[string]any(doc))
}

var errNotMade = errors.New("the file must be made from envoy.yaml, with the filter " + extAuthz)

func useModule(doc node, fields map[string]any) error {
	static := doc.at("static_resources")
	var clusters []any
	for _, cluster := range static.list("clusters") {
		if cluster["name"] != "authz" {
			clusters = append(clusters, cluster)
		}
	}
	static["clusters"] = clusters
	manager := static.list("listeners")[0].list("filter_chains")[0].list("filters")[0].at("typed_config")
	replaced := false
	for _, filter := range manager.list("http_filters") {
		switch filter["name"] {
		case extAuthz:
			filter["name"] = moduleName
			filter["typed_config"] = moduleConfig(moduleFilter, fields)
			replaced = true
		case mutation:
			requests := filter.at("typed_config").at("mutations")
			requests["request_mutations"] = append(requests["request_mutations"].([]any), emptyScopes())
		}
	}
	if !replaced {
		return errNotMade
	}
	// ext_authz measures each check. The module reports the time of a check that waited.
	logged := manager.list("access_log")[0].at("typed_config").at("log_format").at("json_format")
	logged["check_us"] = "%DYNAMIC_METADATA(" + extAuthz + ":check_us)%"
	for _, host := range manager.at("route_config").list("virtual_hosts") {
		if err := hostRequirements(host); err != nil {
			return err
		}
	}
	return nil
}

// emptyScopes adds the header of a credential without scopes: a module cannot set a header to an empty value.
func emptyScopes() node {
	return node{"append": node{
		"header":           node{"key": credential.ScopesHeader, "value": ""},
		"append_action":    "ADD_IF_ABSENT",
		"keep_empty_value": true,
	}}
}

func moduleConfig(kind string, fields map[string]any) node {
	return node{
		"@type":                 kind,
		"dynamic_module_config": node{"name": moduleName, "do_not_close": true},
		"filter_name":           moduleName,
		"filter_config":         node{"@type": structType, "value": fields},
	}
}

// hostRequirements replaces the settings of ext_authz in a virtual host and its routes. Envoy gives the
// module only the most specific ones, so each route gets those of its virtual host too, as ext_authz
// merges them.
func hostRequirements(host node) error {
	ofHost, err := requirement(host, nil)
	if err != nil {
		return err
	}
	for _, route := range host.list("routes") {
		if _, err := requirement(route, ofHost); err != nil {
			return err
		}
	}
	return nil
}

// requirement replaces the settings of one route or virtual host and returns its requirement.
func requirement(in node, inherited node) (node, error) {
	settings, _ := in["typed_per_filter_config"].(node)
	perRoute, ok := settings[extAuthz].(node)
	if !ok {
		return nil, nil //nolint:nilnil // no settings
	}
	delete(settings, extAuthz)
	if perRoute["disabled"] == true {
		settings[moduleName] = node{"@type": filterConfig, "disabled": true}
		return nil, nil //nolint:nilnil // not checked
	}
	check, _ := perRoute["check_settings"].(node)
	extensions, ok := check["context_extensions"].(node)
	if !ok {
		return nil, fmt.Errorf("envoy.yaml: the settings of %s have no context_extensions", extAuthz)
	}
	fields := maps.Clone(inherited)
	if fields == nil {
		fields = node{}
	}
	maps.Copy(fields, extensions)
	settings[moduleName] = moduleConfig(moduleRoute, fields)
	return fields, nil
}
