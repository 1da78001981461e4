package result

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Plot is a bar for each row of a table, from columns whose values add up. With one column, a line shows the spread.
type Plot struct {
	File    string   // of the picture, relative to the document's folder
	Title   string   // with the unit
	Table   string   // name of the table
	Columns []string // titles
	Rows    []string // names; nil: all rows that have a value
}

// Sizes in pixels. The text is scaled with the picture, so larger sizes of one part leave less for the others.
const (
	plotWidth  = 800
	labelWidth = 310 // left of the bars
	valueWidth = 170 // right of the bars
	barWidth   = plotWidth - labelWidth - valueWidth
	rowHeight  = 30
	barHeight  = 18
	topHeight  = 34 // of the title; the legend has the same
	axisHeight = 26
)

// The colours are readable on white and on black.
const (
	textColour  = "#7a828e"
	gridOpacity = "0.35" // of the lines
)

var barColours = []string{"#3b82d0", "#d9822b", "#5a9e4b", "#b0568f"}

// bar is a row of a plot.
type bar struct {
	name  string
	parts []Cell // one for each column
}

func (b bar) total() (sum float64) {
	for _, part := range b.parts {
		if len(part) > 0 {
			sum += part[0]
		}
	}
	return sum
}

// greatest returns the right end of the bar and its spread.
func (b bar) greatest() float64 {
	if len(b.parts) == 1 && len(b.parts[0]) == 3 {
		return b.parts[0][2]
	}
	return b.total()
}

// SVG returns the plot of a table as a picture. The axis begins at 0.
func (p Plot) SVG(t Table) ([]byte, error) {
	bars, err := p.bars(t)
	if err != nil {
		return nil, fmt.Errorf("plot %s: %w", p.File, err)
	}
	longest := 0.0
	for _, b := range bars {
		longest = max(longest, b.greatest())
	}
	step := tick(longest)
	scale := barWidth / (step * math.Ceil(longest/step))
	top := topHeight
	if len(p.Columns) > 1 {
		top += topHeight
	}
	bottom := top + rowHeight*len(bars)
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="14" fill="%s">`+"\n",
		plotWidth, bottom+axisHeight, textColour)
	fmt.Fprintf(&out, `<text x="0" y="20" font-size="16" font-weight="bold">%s</text>`+"\n", html.EscapeString(p.Title))
	p.writeLegend(&out)
	for i := 0; float64(i)*step*scale <= barWidth+0.5; i++ {
		x := labelWidth + float64(i)*step*scale
		fmt.Fprintf(&out, `<path d="M%.1f %dV%d" stroke="%s" stroke-opacity="%s"/>`+"\n", x, top, bottom, textColour, gridOpacity)
		fmt.Fprintf(&out, `<text x="%.1f" y="%d" text-anchor="middle" font-size="12">%s</text>`+"\n", x, bottom+18, format(float64(i)*step))
	}
	for i, b := range bars {
		b.write(&out, top+rowHeight*i+rowHeight/2, scale)
	}
	out.WriteString("</svg>\n")
	return []byte(out.String()), nil
}

// bars returns the rows of a table that the plot shows.
func (p Plot) bars(t Table) (bars []bar, err error) {
	for _, row := range t.Rows {
		b := bar{name: row.Name}
		for _, title := range p.Columns {
			i := slices.Index(t.Columns, title)
			if i < 1 || i > len(row.Cells) {
				return nil, fmt.Errorf("table %s has no column %q in row %q", t.Name, title, row.Name)
			}
			b.parts = append(b.parts, row.Cells[i-1])
		}
		if b.total() > 0 && (p.Rows == nil || slices.Contains(p.Rows, row.Name)) {
			bars = append(bars, b)
		}
	}
	if len(bars) == 0 || len(bars) < len(p.Rows) {
		return nil, fmt.Errorf("table %s has %d of the rows %q with values", t.Name, len(bars), p.Rows)
	}
	return bars, nil
}

func (p Plot) writeLegend(out *strings.Builder) {
	if len(p.Columns) == 1 {
		return
	}
	for i, title := range p.Columns {
		x := labelWidth + i*230
		fmt.Fprintf(out, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/>`+"\n", x, topHeight+6, barColours[i%len(barColours)])
		fmt.Fprintf(out, `<text x="%d" y="%d" font-size="12">%s</text>`+"\n", x+18, topHeight+16, html.EscapeString(title))
	}
}

// write writes a bar whose middle is at y.
func (b bar) write(out *strings.Builder, y int, scale float64) {
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", labelWidth-10, y+5, html.EscapeString(b.name))
	x := float64(labelWidth)
	for i, part := range b.parts {
		if len(part) == 0 {
			continue
		}
		width := part[0] * scale
		fmt.Fprintf(out, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x, y-barHeight/2, width, barHeight, barColours[i%len(barColours)])
		x += width
	}
	value := Value(b.total()).String()
	if len(b.parts) == 1 && len(b.parts[0]) == 3 {
		value = b.parts[0].String()
		fmt.Fprintf(out, `<path d="M%.1f %dH%.1f" stroke="%s" stroke-width="2"/>`+"\n",
			labelWidth+b.parts[0][1]*scale, y, labelWidth+b.parts[0][2]*scale, textColour)
	}
	fmt.Fprintf(out, `<text x="%.1f" y="%d">%s</text>`+"\n", labelWidth+b.greatest()*scale+8, y+5, value)
}

// tick returns the distance of the lines of an axis that ends at greatest or later: 1, 2 or 5 times a power of ten, so that there
// are at most five.
func tick(greatest float64) float64 {
	const most = 5
	power := math.Pow(10, math.Floor(math.Log10(greatest/most)))
	for _, factor := range []float64{1, 2, 5} {
		if greatest/(factor*power) <= most {
			return factor * power
		}
	}
	return 10 * power
}
