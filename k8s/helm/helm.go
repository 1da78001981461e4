// Package helm renders a chart as `helm template` does, for tests. It uses Helm's own packages.
package helm

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

// Template returns the objects of a release in the namespace phantom, as YAML documents in the order of the files. It reports values
// that the chart's schema refuses.
func Template(chart, release string, values map[string]any) ([]byte, error) {
	loaded, err := loader.Load(chart)
	if err != nil {
		return nil, err
	}
	options := common.ReleaseOptions{Name: release, Namespace: "phantom", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(loaded, values, options, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(loaded, all)
	if err != nil {
		return nil, err
	}
	var text []byte
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if filepath.Ext(name) == ".yaml" {
			text = fmt.Appendf(text, "---\n%s\n", files[name])
		}
	}
	return text, nil
}
