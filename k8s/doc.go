// Package k8s holds the Kubernetes manifests, and the tests of everything that
// deploys this product: manifests, Dockerfile and compose file.
//
// It is a module of its own because the tests need what the product does not:
// kustomize, the Kubernetes types, compose-go and BuildKit.
package k8s

//go:generate go run ./render ../envoy/envoy.yaml base/config/envoy.yaml
