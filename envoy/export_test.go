package envoy

import "go.yaml.in/yaml/v4"

// UseModule changes a configuration as RenderModule does.
func UseModule(text []byte, fields map[string]any) ([]byte, error) {
	var doc node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if err := useModule(doc, fields); err != nil {
		return nil, err
	}
	return yaml.Marshal(map[string]any(doc))
}

// RenderOn is Render for a kernel with or without IPv6.
func RenderOn(a Addresses, ipv6 bool) ([]byte, error) {
	return render(a, func() bool { return ipv6 }, nil)
}
