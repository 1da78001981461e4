// Command render replaces ext_authz in a configuration of Envoy with the Envoy module. It prints the result, without
// comments.
//
//	render ENVOY_YAML FILTER_CONFIG
//
// ENVOY_YAML is envoy.yaml or a file made from it. FILTER_CONFIG is a YAML file with the fields of the module's
// filter_config.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/envoy"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("usage: render ENVOY_YAML FILTER_CONFIG")
	}
	source, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	config, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	var fields map[string]any
	if err := yaml.Unmarshal(config, &fields); err != nil {
		return fmt.Errorf("%s: %w", args[1], err)
	}
	text, err := envoy.UseModule(source, fields)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	_, err = out.Write(text)
	return err
}
