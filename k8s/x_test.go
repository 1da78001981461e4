package k8s

import (
	_ "github.com/compose-spec/compose-go/v2/cli"
	_ "github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	_ "gopkg.in/evanphx/json-patch.v4"
)
