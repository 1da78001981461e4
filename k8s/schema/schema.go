// Package schema validates custom resources as an API server does that has their CRDs: unknown and misspelt fields,
// the OpenAPI schema with its defaults, lists that are sets or maps, and the CEL rules.
//
// It uses the API server's own packages, so it costs what a request to an API server costs: milliseconds for an object. The
// first object of a kind also compiles the rules of its CRD, which takes up to a second.
package schema

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// Set is the kinds of some CRDs. It is safe for concurrent use.
type Set struct{ kinds map[id]*kind }

// id names a version of a kind, such as security.istio.io/v1 AuthorizationPolicy.
type id struct{ apiVersion, kind string }

func (i id) String() string { return i.apiVersion + " " + i.kind }

// kind is one version of a CRD.
type kind struct {
	namespaced bool
	version    apiextensionsv1.CustomResourceDefinitionVersion
	compile    sync.Once
	err        error // of compile
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator // nil: the kind has no rules
}

// New returns the kinds of CRDs in YAML, each text with any number of documents. Other documents than CRDs are ignored.
func New(texts ...[]byte) (*Set, error) {
	s := &Set{kinds: map[id]*kind{}}
	for _, text := range texts {
		for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
			var crd apiextensionsv1.CustomResourceDefinition
			switch err := d.Decode(&crd); {
			case errors.Is(err, io.EOF):
			case err != nil:
				return nil, fmt.Errorf("decode CRD: %w", err)
			default:
				s.add(&crd)
				continue
			}
			break
		}
	}
	if len(s.kinds) == 0 {
		return nil, errors.New("no CRD in the texts")
	}
	return s, nil
}

// add registers the versions of a CRD that an API server serves.
func (s *Set) add(crd *apiextensionsv1.CustomResourceDefinition) {
	if crd.Kind != "CustomResourceDefinition" {
		return
	}
	for _, v := range crd.Spec.Versions {
		if v.Served {
			s.kinds[id{crd.Spec.Group + "/" + v.Name, crd.Spec.Names.Kind}] = &kind{
				namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped, version: v,
			}
		}
	}
}

// Has reports whether the object is of a kind of the set.
func (s *Set) Has(object map[string]any) bool {
	_, ok := s.kinds[idOf(object)]
	return ok
}

func idOf(object map[string]any) id {
	apiVersion, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	return id{apiVersion, kind}
}

// Validate reports everything for which an API server would refuse to create the object, and unknown fields. The object is not
// changed: defaults are set in a copy.
func (s *Set) Validate(object map[string]any) error {
	of := idOf(object)
	k, ok := s.kinds[of]
	if !ok {
		return fmt.Errorf("%v: unknown kind", of)
	}
	if k.compile.Do(k.prepare); k.err != nil {
		return fmt.Errorf("%v: compile its schema: %w", of, k.err)
	}
	meta, _ := object["metadata"].(map[string]any)
	if err := k.validate(object); err != nil {
		return fmt.Errorf("%s %v: %w", of.kind, meta["name"], err)
	}
	return nil
}

// prepare compiles the schema and its rules.
func (k *kind) prepare() {
	var props apiextensions.JSONSchemaProps
	if k.err = apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(k.version.Schema.OpenAPIV3Schema, &props, nil); k.err != nil {
		return
	}
	if k.structural, k.err = structuralschema.NewStructural(&props); k.err != nil {
		return
	}
	if k.schema, _, k.err = validation.NewSchemaValidator(&props); k.err != nil {
		return
	}
	k.rules = cel.NewValidator(k.structural, true, celconfig.PerCallLimit)
}

func (k *kind) validate(object map[string]any) error {
	object, err := asJSON(object)
	if err != nil {
		return err
	}
	if unknown, err := k.unknownFields(object); err != nil || len(unknown) > 0 {
		return errors.Join(err, unknownFields(unknown))
	}
	defaulting.Default(object, k.structural)
	found := k.metadata(object)
	found = append(found, validation.ValidateCustomResource(nil, object, k.schema)...)
	found = append(found, listtype.ValidateListSetsAndMaps(nil, k.structural, object)...)
	if len(found) == 0 && k.rules != nil { // as in an API server, rules see only objects that have the right types
		found, _ = k.rules.Validate(context.Background(), nil, k.structural, object, nil, celconfig.RuntimeCELCostBudget)
	}
	return found.ToAggregate()
}

// asJSON returns a copy whose numbers have the types that an API server decodes: int64 or float64.
func asJSON(object map[string]any) (map[string]any, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var decoded map[string]any
	return decoded, utiljson.Unmarshal(text, &decoded)
}

// unknownFields returns the paths of fields that the schema does not have.
func (k *kind) unknownFields(object map[string]any) ([]string, error) {
	unknown := pruning.PruneWithOptions(object, k.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	err, inMeta := objectmeta.CoerceWithOptions(nil, object, k.structural, true, objectmeta.CoerceOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return nil, err
	}
	return append(unknown, inMeta...), nil
}

func unknownFields(paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	return fmt.Errorf("unknown fields: %s", strings.Join(paths, ", "))
}

// metadata checks the name and the scope, which the schema of a CRD does not have.
func (k *kind) metadata(object map[string]any) (found field.ErrorList) {
	meta, _ := object["metadata"].(map[string]any)
	path := field.NewPath("metadata")
	if meta["name"] == nil {
		found = append(found, field.Required(path.Child("name"), ""))
	}
	if _, has := meta["namespace"]; has && !k.namespaced {
		found = append(found, field.Forbidden(path.Child("namespace"), "the kind has no namespace"))
	}
	return found
}
