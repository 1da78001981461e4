// Package cluster applies everything that deploys to a real API server of Kubernetes, without containers: etcd and
// kube-apiserver, built from their modules. It validates what no schema says, such as the admission policies, and changes
// that only a server refuses.
//
// Its tests have the build tag cluster: `make test-cluster` builds both programs once, for about 10 minutes on two cores,
// into the user's cache directory. A server then starts in seconds and takes 300 MB.
package cluster
