package config

import (
	"strings"
	"testing"
)

func TestReference(t *testing.T) {
	for table, rows := range map[string][]string{
		Reference[Authzd](): {
			"| `listen.check` | `['tcp://127.0.0.1:9191']` | Addresses for Check and grpc.health.v1. ",
			"and IPv6. A change requires a restart. |",
			"| `listen.tls.cert_file` | required | ",
			"| `key_api.url` | required | ",
			"| `key_api.token_file` | none | ",
			"| `cache.max_stale` | `15m` | ",
			"at all. `0` to `168h`. |",
			"| `endpoints[].principal` | `any` | Kind of credential that is accepted. `any`, `key` or `session`. |",
			"| `log.level` | `info` | ",
		},
		Reference[Keyd](): {
			"| `scopes` | `{'chat:companion': {granted_by: operator}}` | ",
			"| `scopes[NAME].granted_by` | required | ",
			"| `operators[].token_file` | required | ",
		},
	} {
		for _, row := range rows {
			if !strings.Contains(table, row) {
				t.Errorf("no %q in\n%s", row, table)
			}
		}
		for line := range strings.Lines(table) {
			cells := strings.Split(strings.Trim(line, "|\n "), " | ")
			if len(cells) != 3 || cells[2] == "" {
				t.Errorf("field without a comment, or invalid row: %s", line)
			}
		}
	}
}
