// Command dashboard writes ../dashboard.json, the dashboard for Grafana 10 or later, from the tables of rows in this folder.
//
// All panels use the data source of the variable datasource. The other variables select what the dashboard shows: job and instance
// of authzd or the module, the job of keyd, and that of Envoy.
package main

//go:generate go run . ../dashboard.json

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: dashboard FILE")
		os.Exit(2)
	}
	text, err := generate()
	if err == nil {
		err = os.WriteFile(os.Args[1], text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

// row is a group of panels. Grafana can collapse it.
type row struct {
	title  string
	panels []panel
}

// panel is one plot.
type panel struct {
	title       string
	unit        string // name of Grafana's unit, such as s or percentunit
	description string
	queries     []query
	red         float64 // values from here on are red; 0: none are
	redBelow    float64 // values below are red; 0: none are
	log         bool    // a logarithmic axis
	stat        bool    // shows the last values as text, not a plot over time
}

// query is a query of Prometheus, and the name of its series with Grafana's {{label}}.
type query struct{ expr, legend string }

// object is one of JSON.
type object = map[string]any

var source = object{"type": "prometheus", "uid": "${datasource}"}

// The grid of Grafana has 24 columns.
const (
	columns      = 24
	panelWidth   = 8
	panelHeight  = 8
	headerHeight = 1
)

// generate returns the dashboard as JSON.
func generate() ([]byte, error) {
	var panels []object
	y := 0
	add := func(p object, x, width, height int) {
		p["id"] = len(panels) + 1
		p["gridPos"] = object{"x": x, "y": y, "w": width, "h": height}
		panels = append(panels, p)
	}
	for _, r := range rows() {
		add(object{"type": "row", "title": r.title, "collapsed": false, "panels": []object{}}, 0, columns, headerHeight)
		y += headerHeight
		x := 0
		for _, p := range r.panels {
			if x == columns {
				x, y = 0, y+panelHeight
			}
			add(p.object(), x, panelWidth, panelHeight)
			x += panelWidth
		}
		y += panelHeight
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(object{
		"uid": "phantom-authz", "title": "Phantom authz", "tags": []string{"phantom"}, "description": "authzd, keyd and Envoy's checks.",
		// Schema 39 is that of Grafana 10.3. Later versions migrate it when they load it. The tooltip 1 is a shared crosshair.
		"schemaVersion": 39, "version": 1, "editable": true, "graphTooltip": 1,
		"timezone": "", "refresh": "30s", "time": object{"from": "now-6h", "to": "now"},
		"templating": object{"list": variables()}, "annotations": object{"list": []object{}}, "links": []object{},
		"panels": panels,
	})
	return out.Bytes(), err
}

// object returns the panel in the form of Grafana, without its place.
func (p panel) object() object {
	targets := make([]object, len(p.queries))
	for i, q := range p.queries {
		targets[i] = object{
			"refId": string(rune('A' + i)), "datasource": source, "editorMode": "code", "expr": q.expr, "legendFormat": q.legend,
			"range": !p.stat, "instant": p.stat,
		}
	}
	steps := []object{{"color": "green", "value": nil}}
	if p.red != 0 {
		steps = append(steps, object{"color": "red", "value": p.red})
	}
	if p.redBelow != 0 {
		steps = []object{{"color": "red", "value": nil}, {"color": "green", "value": p.redBelow}}
	}
	defaults := object{"unit": p.unit, "thresholds": object{"mode": "absolute", "steps": steps}}
	result := object{
		"type": "timeseries", "title": p.title, "description": p.description, "datasource": source, "targets": targets,
		"fieldConfig": object{"defaults": defaults, "overrides": []object{}},
	}
	if p.stat {
		result["type"] = "stat"
		result["options"] = object{
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
			"textMode":      "value_and_name", "colorMode": "value", "graphMode": "none", "orientation": "horizontal",
		}
		return result
	}
	scale := object{"type": "linear"}
	if p.log {
		scale = object{"type": "log", "log": 10}
	}
	style := "off"
	if p.red != 0 || p.redBelow != 0 {
		style = "line"
	}
	defaults["color"] = object{"mode": "palette-classic"}
	defaults["custom"] = object{
		"drawStyle": "line", "lineWidth": 1, "fillOpacity": 5, "showPoints": "never", "spanNulls": false,
		"scaleDistribution": scale, "thresholdsStyle": object{"mode": style},
	}
	result["options"] = object{
		"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}
	return result
}

// variables returns those of the dashboard.
func variables() []object {
	values := func(name, label, metric, of string) object {
		query := fmt.Sprintf("label_values(%s, %s)", metric, of)
		return object{
			"name": name, "label": label, "type": "query", "datasource": source, "definition": query,
			"query": object{"query": query, "refId": name}, "refresh": 2, // when the time changes
			"sort": 1, "multi": true, "includeAll": true, "allValue": ".*",
			"current": object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}},
		}
	}
	return []object{
		{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1},
		values("job", "Job of authzd", "phantom_authz_build_info", "job"),
		values("instance", "authzd", `phantom_authz_build_info{job=~"$job"}`, "instance"),
		values("keyd", "Job of keyd", "phantom_keyd_build_info", "job"),
		values("envoy", "Job of Envoy", "envoy_http_downstream_rq_total", "job"),
	}
}
