package envoylint

import "fmt"

// Defaults of Envoy's circuit breakers.
const (
	defaultMaxRequests = 1024
	defaultMaxRetries  = 3
)

// cluster checks the circuit breakers of authzd's cluster, if it is in the file.
func (l *linter) cluster(cluster node) {
	if !cluster.exists() {
		return
	}
	breakers := cluster.at("circuit_breakers")
	for _, t := range breakers.at("thresholds").items() {
		if priority := t.at("priority").text(); priority != "" && priority != "DEFAULT" {
			continue
		}
		requests := t.at("max_requests").number()
		retries := t.at("max_retries").number()
		if requests > defaultMaxRequests && (t.at("retry_budget").exists() || retries > defaultMaxRetries) {
			return
		}
	}
	l.find(circuitBreakers, breakers, "%s", breakers.shown())
}

// floor has the first patch of each minor version that fixes the newest known vulnerabilities.
var floor = map[int]int{36: 10, 37: 6, 38: 4, 39: 1}

// newestMinor is the newest minor version that is fixed from its first patch on.
const newestMinor = 40

// version checks the version that a config_dump reports about the running Envoy.
func (l *linter) version() {
	at, found := l.reportedVersion(l.root)
	if !found {
		return
	}
	part := func(name string) int { return int(at.at(name).number()) }
	major, minor, patch := part("major_number"), part("minor_number"), part("patch")
	least, listed := floor[minor]
	if major > 1 || major == 1 && (minor >= newestMinor || listed && patch >= least) {
		return
	}
	l.find(envoyVersion, at, "%s", fmt.Sprintf("%d.%d.%d", major, minor, patch))
}

// reportedVersion finds the node's version in the bootstrap of a config_dump.
func (l *linter) reportedVersion(n node) (at node, found bool) {
	for _, config := range n.at("configs").items() {
		if kind, dump := config.typed(); kind == bootstrapDump {
			at = dump.in("bootstrap", "node", "user_agent_build_version", "version")
			return at, at.exists()
		}
	}
	return node{}, false
}
