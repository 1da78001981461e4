package result

// Plots are those of docs/performance.md.
func Plots() []Plot {
	const cpu = "Envoy's CPU for a request, µs"
	return []Plot{
		{File: "performance/envoy-requests.svg", Title: "Requests a second of one worker", Table: "envoy", Columns: []string{"requests/s"}},
		{File: "performance/envoy-cpu.svg", Title: "CPU for a request, µs", Table: "envoy", Columns: []string{cpu, "sidecar's CPU, µs"}},
		{File: "performance/envoy-p99.svg", Title: "p99 at full speed, ms", Table: "envoy", Columns: []string{"p99, ms"}},
		{File: "performance/envoy-rate-p99.svg", Title: "p99 at the same rate, ms", Table: "envoy-rate", Columns: []string{"p99, ms"}},
		{
			File: "performance/check-cpu.svg", Title: "Server's CPU for a check, 2 connections with 16 streams, µs", Table: "check-2-16",
			Columns: []string{"server's CPU for a check, µs"}, Rows: []string{"stock grpc-go, constant OK (baseline)", "authzd, from its cache"},
		},
	}
}
