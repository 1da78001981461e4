package keyserver

import (
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// snake returns the value of the label operation for a method.
func snake(method string) string {
	var b strings.Builder
	for i, c := range method {
		if i > 0 && unicode.IsUpper(c) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

// Every operation of the store is timed once, under its own name. The store below is nil, so each call panics.
func TestEveryOperationIsTimed(t *testing.T) {
	registry := prometheus.NewRegistry()
	store := reflect.ValueOf(newTimedStore(nil, registry))
	counts := func() map[string]uint64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]uint64{}
		for _, m := range families[0].GetMetric() {
			all[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
		}
		return all
	}
	want := counts() // all series exist
	if len(want) != len(operations) {
		t.Fatalf("%d series, want %d", len(want), len(operations))
	}
	contract := reflect.TypeFor[keystore.Store]()
	for i := range contract.NumMethod() {
		name := contract.Method(i).Name
		switch name {
		case "Close", "Changed", "NewEpoch": // they do not work in the database, or do not run in the server
			continue
		}
		method := store.MethodByName(name)
		args := make([]reflect.Value, method.Type().NumIn())
		for i := range args {
			args[i] = reflect.Zero(method.Type().In(i))
		}
		func() {
			defer func() { _ = recover() }()
			method.Call(args)
		}()
		want[snake(name)]++
		if got := counts(); !reflect.DeepEqual(got, want) {
			t.Errorf("after %s: %v", name, got)
		}
	}
}
