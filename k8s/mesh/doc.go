// Package mesh tests the overlays for meshes with the meshes' own programs: istioctl validates them, and istiod and egctl translate
// them into the configurations of Envoy that the tests of ../../envoy run (testdata/mesh).
//
// These tests have the build tag mesh, because the programs take about 20 minutes to compile on two cores; later runs find them in
// the user's cache directory. UPDATE=1 writes the translations.
package mesh
