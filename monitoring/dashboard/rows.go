package main

// rows returns the rows of the dashboard, from the answers to their causes.
func rows() []row {
	return []row{
		{"Checks", checks()},
		{"Facts", facts()},
		{"Revocation", revocation()},
		{"keyd", keyd()},
		{"Envoy", envoy()},
		{"Processes", processes()},
	}
}

// What the variables select of authzd, keyd and Envoy.
const (
	ofAuthzd = `{job=~"$job", instance=~"$instance"}`
	ofKeyd   = `{job=~"$keyd"}`
	ofEnvoy  = `{job=~"$envoy"}`
)

// perSecond is the window of a rate, which Grafana makes at least four scrapes long.
const perSecond = `[$__rate_interval]`

// checkLabels begins a selection of checks; more labels follow.
const checkLabels = `{job=~"$job", instance=~"$instance", `

func checks() []panel {
	const total = `sum(rate(phantom_authz_checks_total` + ofAuthzd + perSecond + `))`
	const buckets = `sum by (le) (rate(phantom_authz_check_duration_seconds_bucket` + ofAuthzd + perSecond + `))`
	return []panel{
		{
			title: "Checks by decision", unit: "reqps", description: "Checks a second, by decision. A check in shadow mode has the decision that enforcement would make.",
			queries: []query{{`sum by (decision, shadow) (rate(phantom_authz_checks_total` + ofAuthzd + perSecond + `))`, "{{decision}}, shadow {{shadow}}"}},
		},
		{
			title: "Denials by reason", unit: "reqps", description: "Denied checks a second, by the reason in the answer.",
			queries: []query{{`sum by (reason) (rate(phantom_authz_checks_total` + checkLabels + `decision="deny"}` + perSecond + `)) > 0`, "{{reason}}"}},
		},
		{
			title: "Checks answered with 503", unit: "percentunit", red: 0.001,
			description: "Part of the checks that had no usable facts. The objective is at most 0.1 % over 30 days; the alerts use windows of 5 minutes to 6 hours.",
			queries: []query{
				{`sum(rate(phantom_authz_checks_total` + checkLabels + `reason="unavailable"}` + perSecond + `)) / ` + total, "unavailable"},
				{`sum(rate(phantom_authz_late_answers_total` + ofAuthzd + perSecond + `)) / ` + total, "of which too late"},
			},
		},
		{
			title: "Latency of a check", unit: "s", log: true, description: "From a check's arrival in the process to its answer, from the classic histogram. A cache hit takes microseconds; a miss takes a request to the key API.",
			queries: []query{
				{`histogram_quantile(0.5, ` + buckets + `)`, "p50"},
				{`histogram_quantile(0.99, ` + buckets + `)`, "p99"},
			},
		},
		{
			title: "In flight", unit: "short", description: "Checks that wait for a look-up, and loads of unknown credentials that wait for the admission limit.",
			queries: []query{
				{`sum(phantom_authz_checks_in_flight` + ofAuthzd + `)`, "checks that wait"},
				{`sum(phantom_authz_admission_waiting` + ofAuthzd + `)`, "loads that wait for admission"},
			},
		},
		{
			title: "Answered with 429", unit: "reqps", description: "Checks that the admission limit refused, because too many unknown credentials arrive. Known keys are not affected.",
			queries: []query{
				{`sum(rate(phantom_authz_checks_total` + checkLabels + `reason="rate_limited"}` + perSecond + `))`, "checks"},
				{`sum(rate(phantom_authz_admission_refused_total` + ofAuthzd + perSecond + `))`, "refused loads"},
			},
		},
		{
			title: "Shadow mode", unit: "short", red: 1, description: "1 while authzd lets every request pass.",
			queries: []query{{`max by (instance) (phantom_authz_shadow_mode` + ofAuthzd + `)`, "{{instance}}"}},
		},
		{
			title: "Invalid messages", unit: "cps", description: "Messages a second that are not valid checks, and results of the key API that are not usable.",
			queries: []query{
				{`sum by (cause) (rate(phantom_authz_undecodable_messages_total` + ofAuthzd + perSecond + `))`, "message {{cause}}"},
				{`sum(rate(phantom_authz_unusable_results_total` + ofAuthzd + perSecond + `))`, "result"},
			},
		},
	}
}

func facts() []panel {
	const lookups = `phantom_authz_lookups_total{job=~"$job", instance=~"$instance"`
	return []panel{
		{
			title: "Sidecars by mode", unit: "short", description: "synced: has a lease. degraded: the lease has ended. cold: no lease yet. ttl: the key API offers no change log.",
			queries: []query{{`sum by (mode) (phantom_authz_mode` + ofAuthzd + `)`, "{{mode}}"}},
		},
		{
			title: "Lease remaining", unit: "s", redBelow: 1, description: "Seconds until the lease ends; negative afterwards. After its end, cached facts are revalidated, and used stale while the key API fails, for max_stale at most.",
			queries: []query{{`min by (instance) (phantom_authz_lease_remaining_seconds` + ofAuthzd + `)`, "{{instance}}"}},
		},
		{
			title: "Acknowledgement age", unit: "s", description: "Seconds since the last poll that was answered with a lease. It rises when the key API cannot be reached.",
			queries: []query{{`max by (instance) (phantom_authz_acknowledgement_age_seconds` + ofAuthzd + `)`, "{{instance}}"}},
		},
		{
			title: "Key API down", unit: "short", red: 1, description: "Sidecars whose resolves or polls of the key API fail.",
			queries: []query{{`sum by (by) (phantom_authz_key_api_down` + ofAuthzd + `)`, "by {{by}}"}},
		},
		{
			title: "Cache hit ratio", unit: "percentunit", description: "Part of the look-ups that the cache answered, and of those that it answered with stale facts because the key API failed.",
			queries: []query{
				{`sum(rate(` + lookups + `, result="hit"}` + perSecond + `)) / sum(rate(` + lookups + `}` + perSecond + `))`, "hit"},
				{`sum(rate(` + lookups + `, result="stale"}` + perSecond + `)) / sum(rate(` + lookups + `}` + perSecond + `))`, "stale"},
			},
		},
		{
			title: "Cache entries", unit: "percentunit", red: 1, description: "Entries as a part of the limit, of the fullest sidecar. At 1, a new entry evicts another one.",
			queries: []query{{`max by (pool) (phantom_authz_cache_entries` + ofAuthzd + ` / phantom_authz_cache_entries_limit` + ofAuthzd + `)`, "{{pool}}"}},
		},
		{
			title: "Evictions and invalidations", unit: "cps", description: "Entries evicted a second because their pool was full. An invalidation of all entries follows a lost change log or a new epoch.",
			queries: []query{
				{`sum by (pool) (rate(phantom_authz_cache_evictions_total` + ofAuthzd + perSecond + `))`, "evicted, {{pool}}"},
				{`sum(rate(phantom_authz_invalidations_total` + ofAuthzd + perSecond + `))`, "invalidations"},
			},
		},
		{
			title: "Resolves by outcome", unit: "reqps", description: "Requests to the key API a second, by outcome, and polls of the change log that were not answered.",
			queries: []query{
				{`sum by (outcome) (rate(phantom_authz_resolves_total` + ofAuthzd + perSecond + `))`, "resolve {{outcome}}"},
				{`sum(rate(phantom_authz_polls_total{job=~"$job", instance=~"$instance", outcome!="ok"}` + perSecond + `))`, "failed polls"},
			},
		},
		{
			title: "Duration of a resolve", unit: "s", log: true, description: "Seconds that a resolve took, retries included.",
			queries: []query{
				{`histogram_quantile(0.5, sum by (le) (rate(phantom_authz_resolve_duration_seconds_bucket` + ofAuthzd + perSecond + `)))`, "p50"},
				{`histogram_quantile(0.99, sum by (le) (rate(phantom_authz_resolve_duration_seconds_bucket` + ofAuthzd + perSecond + `)))`, "p99"},
			},
		},
	}
}

func revocation() []panel {
	return []panel{
		{
			title: "Changes not yet effective", unit: "short", description: "Changes that wait for sidecars that may still use older facts. All keyd count the same store: the greatest count.",
			queries: []query{
				{`max(phantom_keyd_changes_pending` + ofKeyd + `)`, "pending"},
				{`max(phantom_keyd_slowest_sidecar_changes_behind` + ofKeyd + `)`, "behind, slowest sidecar"},
			},
		},
		{
			title: "Age of the oldest pending change", unit: "s", red: 60, description: "Seconds since the oldest change that is not effective was seen. The alert fires above 60 s.",
			queries: []query{{`max(phantom_keyd_oldest_pending_change_age_seconds` + ofKeyd + `)`, "oldest"}},
		},
		{
			title: "Slowest sidecar", unit: "s", description: "Seconds since the last acknowledgement of the sidecar that has sent none for longest. keyctl sidecar list has its name.",
			queries: []query{{`max(phantom_keyd_slowest_sidecar_acknowledgement_age_seconds` + ofKeyd + `)`, "acknowledgement age"}},
		},
		{
			title: "Application of a change", unit: "s", log: true, description: "Seconds from the receipt of changes to their application in the sidecar.",
			queries: []query{
				{`histogram_quantile(0.5, sum by (le) (rate(phantom_authz_change_application_seconds_bucket` + ofAuthzd + perSecond + `)))`, "p50"},
				{`histogram_quantile(0.99, sum by (le) (rate(phantom_authz_change_application_seconds_bucket` + ofAuthzd + perSecond + `)))`, "p99"},
			},
		},
		{
			title: "Changes applied", unit: "cps", description: "Changes of the log that the sidecars applied, a second, summed over them.",
			queries: []query{{`sum(rate(phantom_authz_changes_applied_total` + ofAuthzd + perSecond + `))`, "applied"}},
		},
		{
			title: "Sidecars with a lease", unit: "short", description: "Sidecars with a lease at the last count. One whose lease has ended delays changes too, until max_stale is over.",
			queries: []query{{`max(phantom_keyd_sidecars` + ofKeyd + `)`, "sidecars"}},
		},
	}
}
