package result

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Chart shows values over time as lines, with the periods in which something disturbed them.
type Chart struct {
	File    string   `json:"file"`  // of the picture, relative to the document's folder
	Title   string   `json:"title"` // with the unit
	Log     bool     `json:"log"`   // a logarithmic axis, for positive values
	Lines   []Line   `json:"lines"`
	Periods []Period `json:"periods,omitempty"`
}

// Line is the values of one thing at some minutes since the start. Both have the same length.
type Line struct {
	Name    string `json:"name"`
	Minutes Cell   `json:"minutes"`
	Values  Cell   `json:"values"`
}

// Period is a time that a chart shades, in minutes since the start.
type Period struct {
	From float64 `json:"from"`
	To   float64 `json:"to"`
}

// Sizes in pixels, besides those of Plot.
const (
	chartLeft   = 60 // of the axis
	chartHeight = 200
	chartWidth  = plotWidth - chartLeft - 20
)

// scale maps a value to a fraction of the axis, which ends at the last tick.
type scale struct {
	ticks []float64
	log   bool
}

func (s scale) at(value float64) float64 {
	first, last := s.ticks[0], s.ticks[len(s.ticks)-1]
	if s.log {
		return math.Log10(max(value, first)/first) / math.Log10(last/first)
	}
	return value / last
}

// newScale returns an axis up to greatest: from 0, or from a power of ten that is at most least.
func newScale(least, greatest float64, log bool) scale {
	s := scale{log: log}
	if !log {
		step := tick(max(greatest, 1e-9))
		for i := 0; float64(i-1)*step < greatest; i++ {
			s.ticks = append(s.ticks, float64(i)*step)
		}
		return s
	}
	first := math.Floor(math.Log10(least))
	for power := first; power <= first+1 || math.Pow(10, power-1) < greatest; power++ {
		s.ticks = append(s.ticks, math.Pow(10, power))
	}
	return s
}

// SVG returns the chart as a picture.
func (c Chart) SVG() ([]byte, error) {
	var minutes, values []float64
	for _, l := range c.Lines {
		if len(l.Minutes) != len(l.Values) {
			return nil, fmt.Errorf("chart %s: line %s has %d minutes and %d values", c.File, l.Name, len(l.Minutes), len(l.Values))
		}
		minutes, values = append(minutes, l.Minutes...), append(values, l.Values...)
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("chart %s has no values", c.File)
	}
	least, greatest := slices.Min(values), slices.Max(values)
	if least < 0 || c.Log && least == 0 {
		return nil, fmt.Errorf("chart %s has the value %v, which its axis cannot show", c.File, least)
	}
	x, y := newScale(0, slices.Max(minutes), false), newScale(least, greatest, c.Log)
	toX := func(minute float64) float64 { return chartLeft + chartWidth*x.at(minute) }
	toY := func(value float64) float64 { return topHeight + topHeight + chartHeight*(1-y.at(value)) }

	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="%s">`+"\n",
		plotWidth, 2*topHeight+chartHeight+axisHeight, textColour)
	fmt.Fprintf(&out, `<text x="0" y="20" font-size="16" font-weight="bold">%s</text>`+"\n", html.EscapeString(c.Title))
	for _, p := range c.Periods {
		fmt.Fprintf(&out, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill-opacity="0.2"/>`+"\n", toX(p.From), 2*topHeight, toX(p.To)-toX(p.From), chartHeight)
	}
	for _, value := range y.ticks {
		fmt.Fprintf(&out, `<path d="M%d %.1fH%d" stroke="%s" stroke-opacity="%s"/>`+"\n", chartLeft, toY(value), chartLeft+chartWidth, textColour, gridOpacity)
		fmt.Fprintf(&out, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", chartLeft-8, toY(value)+4, format(value))
	}
	for _, minute := range x.ticks {
		fmt.Fprintf(&out, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", toX(minute), 2*topHeight+chartHeight+18, format(minute)+" min")
	}
	for i, l := range c.Lines {
		l.write(&out, i, toX, toY)
	}
	out.WriteString("</svg>\n")
	return []byte(out.String()), nil
}

// write writes the line and its row of the legend.
func (l Line) write(out *strings.Builder, i int, toX, toY func(float64) float64) {
	colour := barColours[i%len(barColours)]
	x := chartLeft + i*180
	fmt.Fprintf(out, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/>`+"\n", x, topHeight+6, colour)
	fmt.Fprintf(out, `<text x="%d" y="%d">%s</text>`+"\n", x+18, topHeight+16, html.EscapeString(l.Name))
	points := make([]string, len(l.Values))
	for i, value := range l.Values {
		points[i] = fmt.Sprintf("%.1f,%.1f", toX(l.Minutes[i]), toY(value))
	}
	fmt.Fprintf(out, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.Join(points, " "), colour)
}
