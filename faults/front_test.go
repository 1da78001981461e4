package faults_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// checker sends checks through a front.
type checker interface {
	Check(ctx context.Context, s credential.Secret, options ...grpc.CallOption) (testbed.Answer, error)
	// CheckAsEnvoy is Check with Envoy's timeout of a check.
	CheckAsEnvoy(ctx context.Context, s credential.Secret) (testbed.Answer, error)
}

// front is what checks go through.
type front struct {
	name string
	// start starts one of that name, whose configuration has the changed fields. The process has the sidecar's admin pages.
	start func(s *fixture, t testing.TB, name string, changes testbed.Config) (*testbed.Process, checker)
}

// throughAuthzd is authzd, called over gRPC as Envoy does.
var throughAuthzd = front{"authzd", func(s *fixture, t testing.TB, name string, changes testbed.Config) (*testbed.Process, checker) {
	t.Helper()
	p := must(s.StartAuthzd(t.Context(), name, changes))(t)
	c := must(s.CheckClient(name))(t)
	t.Cleanup(c.Close)
	return p, c
}}

// requestCost is about the number of checks of authzd that cost as much as a request through Envoy.
const requestCost = 5

// throughModule is an Envoy of its own with the module.
var throughModule = front{"module", func(s *fixture, t testing.TB, name string, changes testbed.Config) (*testbed.Process, checker) {
	t.Helper()
	p := s.startEnvoy(t, name, envoyOptions{fields: changes})
	return p.Process, p
}}

// forEachFront runs a test with both fronts.
func forEachFront(t *testing.T, test func(t *testing.T, f front)) {
	for _, f := range []front{throughAuthzd, throughModule} {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}
