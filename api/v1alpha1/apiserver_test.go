package v1alpha1_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// apiServer does with objects of one CRD what an API server does: the same functions of the same
// library in the same order (customresource_handler.go and strategy.go of apiextensions-apiserver),
// with unknown fields refused, as kubectl asks for.
type apiServer struct {
	crd        *apiextensions.CustomResourceDefinition
	schema     *structuralschema.Structural
	validator  schemavalidation.SchemaValidator
	rules      *cel.Validator // nil: the schema has none
	namespaced bool
}

func readCRD(t testing.TB, name string) *apiextensions.CustomResourceDefinition {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "deploy", "crd", name))
	require.NoError(t, err)
	var external apiextensionsv1.CustomResourceDefinition
	require.NoError(t, yaml.UnmarshalStrict(data, &external))
	scheme := runtime.NewScheme()
	install.Install(scheme)
	scheme.Default(&external)
	crd := &apiextensions.CustomResourceDefinition{}
	require.NoError(t, scheme.Convert(&external, crd, nil))
	return crd
}

func newAPIServer(t testing.TB, name string) *apiServer {
	t.Helper()
	return serve(t, readCRD(t, name))
}

func serve(t testing.TB, crd *apiextensions.CustomResourceDefinition) *apiServer {
	t.Helper()
	crd.Status.StoredVersions = []string{"v1alpha1"} // as its registry sets it on creation
	require.Empty(t, crdvalidation.ValidateCustomResourceDefinition(context.Background(), crd), "an API server would refuse the CRD")
	props := crd.Spec.Validation // where the conversion puts the schema of a single version
	require.NotNil(t, props)
	schema, err := structuralschema.NewStructural(props.OpenAPIV3Schema)
	require.NoError(t, err)
	validator, _, err := schemavalidation.NewSchemaValidator(props.OpenAPIV3Schema)
	require.NoError(t, err)
	rules := cel.NewValidator(schema, true, celconfig.PerCallLimit)
	return &apiServer{crd: crd, schema: schema, validator: validator, rules: rules, namespaced: crd.Spec.Scope == apiextensions.NamespaceScoped}
}

// decode drops nulls, fills in defaults and tells of unknown fields. It changes obj.
func (s *apiServer) decode(obj map[string]any) error {
	meta, _, unknown, err := objectmeta.GetObjectMetaWithOptions(obj, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return err
	}
	unknown = append(unknown, pruning.PruneWithOptions(obj, s.schema, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	defaulting.PruneNonNullableNullsWithoutDefaults(obj, s.schema)
	defaulting.Default(obj, s.schema)
	if err := objectmeta.SetObjectMeta(obj, meta); err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("strict decoding error: unknown field %q", unknown)
	}
	return nil
}

// create is a POST: obj is changed to what would be stored, and what is wrong is returned.
func (s *apiServer) create(obj map[string]any) error {
	if err := s.decode(obj); err != nil {
		return err
	}
	delete(obj, "status")
	return s.validate(obj).ToAggregate()
}

func (s *apiServer) validate(obj map[string]any) field.ErrorList {
	var errs field.ErrorList
	if want := s.crd.Spec.Names.Kind; obj["kind"] != want {
		return append(errs, field.Invalid(field.NewPath("kind"), obj["kind"], "must be "+want))
	}
	if want := s.crd.Spec.Group + "/v1alpha1"; obj["apiVersion"] != want {
		return append(errs, field.Invalid(field.NewPath("apiVersion"), obj["apiVersion"], "must be "+want))
	}
	meta, _, err := objectmeta.GetObjectMeta(obj, false)
	if err != nil {
		return append(errs, field.Invalid(field.NewPath("metadata"), nil, err.Error()))
	}
	errs = append(errs, apivalidation.ValidateObjectMeta(meta, s.namespaced, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))...)
	errs = append(errs, schemavalidation.ValidateCustomResource(nil, obj, s.validator)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, obj, s.schema, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.schema, obj)...)
	for _, e := range errs {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return errs // rules see only what has the schema's shape
		}
	}
	if s.rules == nil {
		return errs
	}
	ruled, _ := s.rules.Validate(context.Background(), nil, s.schema, obj, nil, celconfig.RuntimeCELCostBudget)
	return append(errs, ruled...)
}
