//go:build cluster

package cluster

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// server is a client of one API server.
type server struct {
	objects  dynamic.Interface
	kinds    *restmapper.DeferredDiscoveryRESTMapper
	warnings *warnings
}

// warnings collects what the server says beside its answers, as for a Pod that its namespace would refuse.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

func (w *warnings) take() (texts []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	texts, w.texts = w.texts, nil
	return texts
}

func connect(t *testing.T, config *rest.Config) *server {
	t.Helper()
	s := &server{warnings: &warnings{}}
	config.WarningHandler = s.warnings
	var err error
	if s.objects, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	s.kinds = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kinds))
	return s
}

// apply does what `kubectl apply --server-side --validate=strict` does. A warning is an error.
func (s *server) apply(ctx context.Context, object *unstructured.Unstructured) error {
	r, err := s.resource(object)
	if err != nil {
		return err
	}
	text, err := object.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = r.Patch(ctx, object.GetName(), "application/apply-patch+yaml", text, metav1.PatchOptions{FieldManager: "test", FieldValidation: "Strict"})
	if said := s.warnings.take(); err == nil && len(said) > 0 {
		err = errors.New(strings.Join(said, "; "))
	}
	return err
}

func (s *server) remove(ctx context.Context, object *unstructured.Unstructured) error {
	r, err := s.resource(object)
	if err != nil {
		return err
	}
	propagation := metav1.DeletePropagationBackground
	err = r.Delete(ctx, object.GetName(), metav1.DeleteOptions{PropagationPolicy: &propagation})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (s *server) resource(object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	m, err := s.kinds.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) { // discovered before its CRD was there
		s.kinds.Reset()
		m, err = s.kinds.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		return s.objects.Resource(m.Resource), nil
	}
	return s.objects.Resource(m.Resource).Namespace(object.GetNamespace()), nil
}

// eventually repeats a step that the server does a moment later.
func eventually(t *testing.T, what string, step func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		err := step()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}
