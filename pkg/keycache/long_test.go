//go:build long

package keycache_test

import "testing"

// TestModelLong runs the model with 20 seeds, at least a million operations.
func TestModelLong(t *testing.T) {
	operations := 0
	for seed := 1; seed <= 20; seed++ {
		operations += model(t, seed, 5, 300)
	}
	t.Logf("%d operations", operations)
	if operations < 1_000_000 {
		t.Errorf("%d operations, want a million", operations)
	}
}

// TestAllMutants is TestMutants with all mutants, and with the model.
func TestAllMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) { m.mustBeDetected(t, m.tests, modelFiles) })
		if m.model {
			t.Run(m.name+", by the model", func(t *testing.T) { m.mustBeDetected(t, "TestModel", nil) })
		}
	}
}

// Random plans detect the known faults, too.
func TestModelLongFindsKnownFaults(t *testing.T) {
	const plansAtMost = 50
	for _, name := range faults {
		t.Run(name, func(t *testing.T) {
			*fault = name
			defer func() { *fault = "" }()
			for seed := range plansAtMost {
				if _, problems := run(t, plans(150).Example(seed)); len(problems) > 0 {
					t.Logf("detected by plan %d: %s", seed, problems[0])
					return
				}
			}
			t.Errorf("not detected by %d plans", plansAtMost)
		})
	}
}
