// Package monitoring contains the alerts for Prometheus and the dashboard for Grafana, and tests that the alerts fire, that they do
// not, and that the metrics of both and the chapters of the runbook exist.
//
// It is a separate module because its tests depend on the parser of Prometheus, which the product does not need.
package monitoring
