package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// module is the configuration of the Envoy module: that of authzd without its check listeners.
type module Authzd

func (m *module) setDefaults() { (*Authzd)(m).setDefaults() }

func (m *module) validate(r *report) {
	for _, field := range []string{"listen.check", "listen.tls"} {
		if r.given(field) {
			r.invalid(field, "must be absent: Envoy calls the module without a listener")
		}
	}
	if m.Tracing != nil {
		r.invalid("tracing", "must be absent: Envoy gives the module no span")
	}
	m.KeyAPI.validate(r)
	m.WebApp.validate(r)
	r.endpoints(m.Endpoints)
}

// reference is a filter_config that names the file with the configuration.
type reference struct {
	ConfigFile File `yaml:"config_file" required:"yes"`
}

// Labels of Envoy's fields in messages.
const (
	filterLabel = "filter_config"
	routeLabel  = "filter_config of the route"
)

// LoadModule loads the configuration of the Envoy module from its filter_config: the fields of
// Authzd except listen.check and listen.tls, or config_file alone, the name of a file with them.
// Then file is that name. Relative file names are relative to the working directory or to
// the folder of the file. The error has one line for each mistake.
func LoadModule(filterConfig []byte) (cfg *Authzd, file string, err error) {
	root, err := parse(filterConfig)
	if err != nil {
		return nil, "", fmt.Errorf("%s:%w", filterLabel, err)
	}
	if hasField(root, "config_file") {
		if file, err = readReference(root); err != nil {
			return nil, "", err
		}
		cfg, err = LoadModuleFile(file)
		return cfg, file, err
	}
	m, r := new(module), newReport(filterLabel, allFiles)
	m.setDefaults()
	if err := r.decode(root, m, "."); err != nil {
		return nil, "", err
	}
	m.validate(r)
	if err := r.err(); err != nil {
		return nil, "", err
	}
	return (*Authzd)(m), "", nil
}

// LoadModuleFile loads the configuration of the Envoy module from a file.
func LoadModuleFile(path string) (*Authzd, error) {
	m, err := load[module](path, allFiles)
	return (*Authzd)(m), err
}

func readReference(root *yaml.Node) (string, error) {
	var to reference
	r := newReport(filterLabel, noFiles)
	if len(root.Content) > 2 {
		r.invalid("config_file", "must be the only field")
	} else if err := r.decode(root, &to, "."); err != nil {
		return "", err
	}
	return string(to.ConfigFile), r.err()
}

func hasField(root *yaml.Node, name string) bool {
	for i := 0; root.Kind == yaml.MappingNode && i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == name {
			return true
		}
	}
	return false
}

// Route is the requirement in a route's configuration of the Envoy module.
type Route struct {
	// Required scopes, separated by spaces. All of them are required.
	Scope string `yaml:"scope" empty:"yes"`
	// Kind of credential that is accepted: any, key or session; "" if the route names none.
	Principal string `yaml:"principal" oneof:"any|key|session"`
}

// LoadRoute loads the filter_config of a route. The error has one line for each mistake.
func LoadRoute(filterConfig []byte) (Route, error) {
	root, err := parse(filterConfig)
	if err != nil {
		return Route{}, fmt.Errorf("%s:%w", routeLabel, err)
	}
	var route Route
	r := newReport(routeLabel, noFiles)
	if err := r.decode(root, &route, "."); err != nil {
		return Route{}, err
	}
	for name := range strings.FieldsSeq(route.Scope) {
		if !credential.ValidScope(name) {
			r.invalid("scope", "must be scopes separated by spaces, each "+scopeForm)
			break
		}
	}
	if !r.given("scope") && !r.given("principal") {
		r.mistakes = append(r.mistakes, mistake{text: "missing field scope or principal"})
	}
	return route, r.err()
}
