package testbed

import "testing"

// A port is not given out again while the first program may still start.
func TestFreeAddressesDoNotRepeat(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		addresses, err := FreeAddresses(3)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			if seen[a] {
				t.Fatalf("%s twice", a)
			}
			seen[a] = true
		}
	}
}
