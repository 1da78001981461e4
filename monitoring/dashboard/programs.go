package main

func keyd() []panel {
	return []panel{
		{
			title: "Requests by side", unit: "reqps", description: "Requests to keyd a second, by side.",
			queries: []query{{`sum by (side) (rate(phantom_keyd_requests_total` + ofKeyd + perSecond + `))`, "{{side}}"}},
		},
		{
			title: "Failed requests", unit: "reqps", description: "Requests to keyd a second with status 5xx, by side and route.",
			queries: []query{{`sum by (side, route, code) (rate(phantom_keyd_requests_total{job=~"$keyd", code=~"5.."}` + perSecond + `)) > 0`, "{{side}} {{route}} {{code}}"}},
		},
		{
			title: "Store: latency by operation", unit: "s", log: true, description: "99th percentile of the seconds that an operation of the store took.",
			queries: []query{{`histogram_quantile(0.99, sum by (operation, le) (rate(phantom_keyd_store_operation_duration_seconds_bucket` + ofKeyd + perSecond + `)))`, "{{operation}}"}},
		},
		{
			title: "Store: connections", unit: "short", description: "Connections to PostgreSQL by state, and their limit. No data with SQLite.",
			queries: []query{
				{`sum by (state) (phantom_keyd_store_connections` + ofKeyd + `)`, "{{state}}"},
				{`sum(phantom_keyd_store_connections_limit` + ofKeyd + `)`, "limit"},
			},
		},
		{
			title: "Store: wait for a connection", unit: "s", description: "Mean seconds that an operation waited for a connection to PostgreSQL, of those that had to wait. No data with SQLite.",
			queries: []query{{`sum(rate(phantom_keyd_store_connection_wait_seconds_total` + ofKeyd + perSecond + `)) / sum(rate(phantom_keyd_store_connection_waits_total` + ofKeyd + perSecond + `))`, "wait"}},
		},
		{
			title: "Store: errors", unit: "cps", description: "Failures of the store a second, by side or background loop. The alert fires on any that last 2 minutes.",
			queries: []query{{`sum by (at) (rate(phantom_keyd_store_errors_total` + ofKeyd + perSecond + `))`, "{{at}}"}},
		},
		{
			title: "Owners' 429", unit: "reqps", description: "Owners' writes a second that were answered with 429, by the limit that was reached.",
			queries: []query{{`sum by (limit) (rate(phantom_keyd_owner_writes_rejected_total` + ofKeyd + perSecond + `))`, "{{limit}}"}},
		},
		{
			title: "Polls beyond the head", unit: "short", red: 1, description: "Polls of the last hour that acknowledge changes that the store does not have: a copy was restored without -new-epoch.",
			queries: []query{{`sum(increase(phantom_keyd_polls_beyond_head_total` + ofKeyd + `[1h]))`, "polls"}},
		},
	}
}

func envoy() []panel {
	return []panel{
		{
			title: "ext_authz", unit: "reqps", description: "Checks of Envoy a second, by result. error: no answer from authzd, or none in time. No data with the Envoy module.",
			queries: []query{
				{`sum(rate(envoy_http_ext_authz_ok` + ofEnvoy + perSecond + `))`, "ok"},
				{`sum(rate(envoy_http_ext_authz_denied` + ofEnvoy + perSecond + `))`, "denied"},
				{`sum(rate(envoy_http_ext_authz_error` + ofEnvoy + perSecond + `))`, "error"},
			},
		},
		{
			title: "ext_authz errors by Envoy", unit: "reqps", description: "Checks a second that Envoy got no answer to. The alert fires on any that last 2 minutes.",
			queries: []query{{`sum by (instance) (rate(envoy_http_ext_authz_error` + ofEnvoy + perSecond + `))`, "{{instance}}"}},
		},
		{
			title: "Responses by class", unit: "reqps", description: "Responses to clients a second, by class of status, without those of the listener for probes.",
			queries: []query{{`sum by (envoy_response_code_class) (rate(envoy_http_downstream_rq_xx{job=~"$envoy", envoy_http_conn_manager_prefix!~"admin|monitor"}` + perSecond + `))`, "{{envoy_response_code_class}}xx"}},
		},
	}
}

func processes() []panel {
	// used is what GOMEMLIMIT bounds: with the module, only Go's part of Envoy's memory.
	const used = `(go_memstats_sys_bytes - go_memstats_heap_released_bytes)`
	const ours = ` and on (job, instance) (phantom_authz_build_info` + ofAuthzd + ` or phantom_keyd_build_info` + ofKeyd + `)`
	both := func(format func(metric, selector string) string) []query {
		return []query{
			{format("phantom_authz", ofAuthzd), "{{instance}}"},
			{format("phantom_keyd", ofKeyd), "{{instance}}"},
		}
	}
	increase := func(name string) []query {
		return both(func(metric, selector string) string {
			return `sum by (instance) (increase(` + metric + name + selector + perSecond + `))`
		})
	}
	return []panel{
		{
			title: "Memory", unit: "bytes", description: "Memory of Go. Envoy's own is not included with the module.",
			queries: []query{{used + ours, "{{instance}}"}},
		},
		{
			title: "Memory to its limit", unit: "percentunit", red: 0.9, description: "Memory of Go as a part of GOMEMLIMIT. Nearly 0 without a limit. The alert fires above 90 % for 15 minutes.",
			queries: []query{{used + ` / go_gc_gomemlimit_bytes` + ours, "{{instance}}"}},
		},
		{
			title: "Goroutines", unit: "short", description: "Goroutines. A number that only rises is a leak.",
			queries: []query{{`go_goroutines` + ours, "{{instance}}"}},
		},
		{
			title: "Certificates end in", unit: "s", redBelow: 14 * 86400, stat: true, description: "Time to the end of the certificates of a configuration field. No data without TLS. The alert fires below 14 days.",
			queries: []query{
				{`min by (instance, field) (phantom_authz_certificate_expiry_timestamp_seconds` + ofAuthzd + `) - time()`, "{{instance}} {{field}}"},
				{`min by (instance, field) (phantom_keyd_certificate_expiry_timestamp_seconds` + ofKeyd + `) - time()`, "{{instance}} {{field}}"},
			},
		},
		{title: "Log lines lost", unit: "short", red: 1, description: "Log lines lost because nothing reads the log fast enough.", queries: increase("_log_lines_dropped_total")},
		{title: "Panics", unit: "short", red: 1, description: "Recovered panics. The request that had it was not allowed.", queries: increase("_panics_total")},
		{
			title: "Configuration current", unit: "short", redBelow: 1, description: "0 if the program rejected its changed configuration and runs with the earlier one.",
			queries: both(func(metric, selector string) string {
				return `min by (instance) (` + metric + `_config_last_reload_successful` + selector + `)`
			}),
		},
		{
			title: "Versions", unit: "short", stat: true, description: "Running processes by version. More than one version is normal during a rollout only.",
			queries: []query{
				{`count by (version, revision) (phantom_authz_build_info` + ofAuthzd + `)`, "authzd {{version}} {{revision}}"},
				{`count by (version, revision) (phantom_keyd_build_info` + ofKeyd + `)`, "keyd {{version}} {{revision}}"},
			},
		},
	}
}
