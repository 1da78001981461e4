// Package monitoring contains the alerts for Prometheus, and tests that they fire, that they do not, and that their metrics and
// chapters of the runbook exist.
//
// It is a separate module because its tests depend on the parser of Prometheus, which the product does not need.
package monitoring
