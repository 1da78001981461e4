package faults_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/bench/result"
)

// roles are those of the processes in the order of the report.
var roles = []string{authzdRole, restartedRole, envoyRole, keydRole}

// quantity is something that must not grow.
type quantity struct {
	name string // with the unit
	of   func(usage) float64
	// most is the bound of the slope per hour, beyond twice its standard error.
	most float64
}

// Smaller bounds break while caches and pools still fill; larger ones miss a leak of a byte in each request, or of a descriptor at
// each outage.
var quantities = []quantity{
	{"memory, MiB", func(u usage) float64 { return u.memory }, 5},
	{"descriptors", func(u usage) float64 { return u.descriptors }, 10},
	{"goroutines", func(u usage) float64 { return u.goroutines }, 20},
}

// longEnough is the duration from which on slopes are bounded. In a shorter run the noise is greater than the bounds.
const longEnough = 20 * time.Minute

// point is a value of a process.
type point struct {
	pid          int
	hours, value float64
}

// fit is a line through points by least squares. The points of each process have their own intercept, since a restart begins with
// an empty cache.
type fit struct {
	slope float64 // per hour
	err   float64 // standard error of the slope
	noise float64 // standard deviation of the points from the line
}

func fitLine(points []point) fit {
	groups := map[int][]point{}
	for _, p := range points {
		groups[p.pid] = append(groups[p.pid], p)
	}
	var xx, xy, yy float64
	for _, group := range groups {
		var x, y float64
		for _, p := range group {
			x, y = x+p.hours/float64(len(group)), y+p.value/float64(len(group))
		}
		for _, p := range group {
			xx, xy, yy = xx+(p.hours-x)*(p.hours-x), xy+(p.hours-x)*(p.value-y), yy+(p.value-y)*(p.value-y)
		}
	}
	free := float64(len(points) - len(groups) - 1)
	if xx == 0 || free <= 0 {
		return fit{}
	}
	f := fit{slope: xy / xx}
	f.noise = math.Sqrt(max(0, yy-f.slope*xy) / free)
	// Successive points of memory differ little, so they are worth fewer independent ones: (1-r)/(1+r) of them if the noise is
	// autoregressive with the correlation r.
	r := f.correlation(points)
	f.err = f.noise / math.Sqrt(xx) * math.Sqrt((1+r)/(1-r))
	return f
}

// correlation returns the correlation of the noise of successive points of a process, from 0 to 0.9.
func (f fit) correlation(points []point) float64 {
	var product, square float64
	var before float64
	for i, p := range points {
		mean, n := 0.0, 0.0
		for _, q := range points {
			if q.pid == p.pid {
				mean, n = mean+q.value-f.slope*q.hours, n+1
			}
		}
		noise := p.value - f.slope*p.hours - mean/n
		if i > 0 && points[i-1].pid == p.pid {
			product += before * noise
		}
		square, before = square+noise*noise, noise
	}
	if square == 0 {
		return 0
	}
	return min(0.9, max(0, product/square))
}

func TestFitLine(t *testing.T) {
	t.Parallel()
	points := []point{{1, 0, 5}, {1, 1, 7}, {1, 2, 9}, {2, 3, 1}, {2, 4, 3}, {2, 5, 5}} // two processes that grow by 2
	if f := fitLine(points); math.Abs(f.slope-2) > 1e-9 || f.noise > 1e-9 {
		t.Errorf("%+v, want the slope 2 without noise", f)
	}
	if f := fitLine([]point{{1, 0, 1}, {1, 1, 3}, {1, 2, 1}, {1, 3, 3}}); math.Abs(f.slope-0.4) > 1e-9 || f.err == 0 {
		t.Errorf("%+v, want the slope 0.4 with an error", f)
	}
	var slow, fast []point
	for i := range 40 {
		slow = append(slow, point{1, float64(i), float64(i / 5 % 2)})
		fast = append(fast, point{1, float64(i), float64(i % 2)})
	}
	if a, b := fitLine(slow), fitLine(fast); a.err < 2*b.err {
		t.Errorf("%+v for noise that changes slowly, %+v for independent noise: want twice the error", a, b)
	}
	if f := fitLine(points[:2]); f != (fit{}) {
		t.Errorf("%+v of two points, want none", f)
	}
}

// settled returns the samples of a role that show whether it grows: from a third of the run on, without outages, and without the
// first minutes of a process, while its cache fills.
func (s *sampler) settled(role string) (of []sample) {
	const filling = 2 * time.Minute
	total := s.taken[len(s.taken)-1].at
	first := map[int]time.Duration{}
	for i, one := range s.taken {
		pid := one.used[role].pid
		if _, ok := first[pid]; !ok && i > 0 {
			first[pid] = one.at
		}
		if one.at >= total/3 && one.at >= first[pid]+min(filling, total/15) && one.phase != inOutage && one.phase != inRestart {
			of = append(of, one)
		}
	}
	return of
}

// flatness returns how each quantity of each process has developed, and the goals for it.
func (s *sampler) flatness(front string) (result.Table, []result.Goal) {
	t := result.Table{
		Name:    front + "-flat",
		Caption: "Per hour: the slope by least squares, with twice its standard error below and above. Noise: the standard deviation from that line.",
		Columns: []string{"process", "at the beginning", "at the end", "most", "per hour", "noise"},
	}
	var goals []result.Goal
	for _, q := range quantities {
		for _, role := range roles {
			samples := s.settled(role)
			if len(samples) < 3 || q.of(samples[0].used[role]) == 0 {
				continue
			}
			var points []point
			most := 0.0
			for _, one := range samples {
				u := one.used[role]
				points = append(points, point{u.pid, one.at.Hours(), q.of(u)})
			}
			for _, one := range s.taken {
				most = max(most, q.of(one.used[role]))
			}
			f, fifth := fitLine(points), max(1, len(points)/5)
			slope := result.Spread(f.slope, []float64{f.slope - 2*f.err, f.slope + 2*f.err})
			t.Rows = append(t.Rows, result.Row{Name: role + ": " + q.name, Cells: []result.Cell{
				result.Value(medianOf(points[:fifth])), result.Value(medianOf(points[len(points)-fifth:])), result.Value(most), slope, result.Value(f.noise),
			}})
			goals = append(goals, result.Goal{
				Name: front + ": " + role + ": " + q.name + ", growth per hour beyond the noise", Measured: result.Value(max(0, slope[1])), AtMost: q.most,
			})
		}
	}
	return t, goals
}

func medianOf(points []point) float64 {
	values := make([]float64, len(points))
	for i, p := range points {
		values[i] = p.value
	}
	slices.Sort(values)
	return values[len(values)/2]
}
