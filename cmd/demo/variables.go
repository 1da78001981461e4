package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// variables are those of demo.env, in its order.
type variables []struct{ name, value string }

func (s *stack) variables(c testbed.Credentials) variables {
	return variables{
		{"PHANTOM_URL", s.url()},
		{"PHANTOM_KEY", c.Plain},
		{"PHANTOM_CHAT_KEY", c.Chat},
		{"PHANTOM_REVOKED_KEY", c.Revoked},
		{"PHANTOM_EXPIRED_KEY", c.Expired},
		{"PHANTOM_TERMINATED_KEY", c.Terminated},
		{"PHANTOM_SESSION", c.Session},
		{"KEYCTL_URL", "http://" + s.keyd.Addresses["listen.operators"]},
		{"KEYCTL_TOKEN_FILE", s.File("operator.token")},
		{"AUTHZD_ADMIN", s.checkAdmin},
		{"KEYD_ADMIN", s.keyd.Admin()},
		{"ENVOY_ADMIN", "http://" + s.envoyAdmin},
	}
}

func (v variables) get(name string) string {
	for _, variable := range v {
		if variable.name == name {
			return variable.value
		}
	}
	return ""
}

// shell returns NAME='value' lines.
func (v variables) shell() []byte {
	var b bytes.Buffer
	for _, variable := range v {
		fmt.Fprintf(&b, "%s='%s'\n", variable.name, strings.ReplaceAll(variable.value, "'", `'\''`))
	}
	return b.Bytes()
}
