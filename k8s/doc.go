// Package k8s contains the Kubernetes manifests, and the tests of the manifests, the Dockerfile and the compose file.
//
// It is a separate module because its tests depend on kustomize, the Kubernetes types, compose-go and BuildKit, which the
// product does not need.
package k8s

//go:generate go run ./render ../envoy/envoy.yaml base/config/envoy.yaml components/module/envoy.yaml components/central/envoy.yaml overlays/sidecar/envoy.yaml
//go:generate cp base/config/envoy.yaml base/config/sds-ca.yaml base/config/sds-certificate.yaml chart/files
//go:generate go run ./alerts ../monitoring/alerts.yaml components/alerts/rules.yaml
