package k8s

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	digest "github.com/opencontainers/go-digest"
)

// anyImage replaces the registry: it returns the configuration of the base image.
type anyImage struct{}

func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := []byte(`{"os":"linux","architecture":"amd64","config":{"Env":["PATH=/usr/local/go/bin:/usr/bin:/bin"]}}`)
	return ref, digest.FromBytes(config), config, nil
}

// lintDockerfile returns BuildKit's findings in all stages.
func lintDockerfile(t *testing.T, text string) []string {
	t.Helper()
	source := llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", []byte(text))
	source.Definition = &llb.Definition{}
	results, err := dockerfile2llb.DockerfileLint(t.Context(), []byte(text), dockerfile2llb.ConvertOpt{SourceMap: source, MetaResolver: anyImage{}})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, w := range results.Warnings {
		found = append(found, w.RuleName+": "+w.Detail)
	}
	if results.Error != nil {
		found = append(found, "error: "+results.Error.Message)
	}
	return found
}

func dockerfile(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDockerfile(t *testing.T) {
	text := dockerfile(t)
	for _, found := range lintDockerfile(t, text) {
		t.Error(found)
	}
	for what, pattern := range map[string]string{
		// The module needs the glibc of this image or an older one: Envoy's image has 2.35.
		"a configurable base, pinned to a patch, with symbols of glibc 2.34": `(?m)^ARG GO_IMAGE=golang:1\.\d+\.\d+-bookworm$`,
		"an empty runtime image by default":                                  `(?m)^ARG RUNTIME_IMAGE=scratch$`,
		"static programs":                                                    `CGO_ENABLED=0`,
		"no paths of the build machine":                                      `-trimpath`,
		"no build id":                                                        `-buildid=`,
		"modules in a separate layer":                                        `(?s)COPY go.mod go.sum.*go mod download.*COPY cmd`,
		"the library alone":                                                  `(?m)^FROM scratch AS module\nCOPY --from=module-build .* /$`,
		"where Envoy finds the library":                                      `(?m)^COPY --from=module .* /opt/phantom/\nENV ENVOY_DYNAMIC_MODULES_SEARCH_PATH=/opt/phantom$`,
		"authzd's health":                                                    `"/bin/authzd", "-config", "/etc/phantom/authzd.yaml", "-healthcheck"`,
		"keyd's health":                                                      `"/bin/keyd", "-config", "/etc/phantom/keyd.yaml", "-healthcheck"`,
	} {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("%s: no match for %s", what, pattern)
		}
	}
	for _, stage := range regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(text, -1) {
		if from := stage[1]; strings.ContainsAny(from, ":/") {
			t.Errorf("FROM %s: base must be an ARG", from)
		}
	}
}

// In a clone made with umask 077 only the owner can read files. Root reads the Go sources; user 65532 reads the files that stay
// in an image.
func TestDockerfileSetsFileModes(t *testing.T) {
	stage, copied := "", 0
	for _, line := range strings.Split(dockerfile(t), "\n") {
		if match := regexp.MustCompile(`^FROM \S+ AS (\S+)`).FindStringSubmatch(line); match != nil {
			stage = match[1]
		}
		if !strings.HasPrefix(line, "COPY ") || strings.Contains(line, "--from=") || strings.HasSuffix(stage, "build") {
			continue
		}
		copied++
		if !strings.HasPrefix(line, "COPY --chmod=0444 ") {
			t.Errorf("stage %s: %q must set the mode", stage, line)
		}
	}
	if copied == 0 {
		t.Error("no COPY of files of the clone")
	}
}

func TestDockerfileUsesGoVersionOfGoMod(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	minor := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindStringSubmatch(string(mod))[1]
	if !strings.Contains(dockerfile(t), "golang:"+minor+".") {
		t.Errorf("GO_IMAGE is not for Go %s of go.mod", minor)
	}
}

func TestDockerfileLintDetects(t *testing.T) {
	for name, change := range map[string][2]string{
		"StageNameCasing":        {"AS build", "AS Build"},
		"JSONArgsRecommended":    {`CMD ["keyctl", "-h"]`, "CMD keyctl -h"},
		"UndefinedVar":           {"COPY cmd cmd", "COPY ${WHAT} cmd"},
		"LegacyKeyValueFormat":   {"ENV PATH=/bin", "ENV PATH /bin"},
		"error: dockerfile pars": {"WORKDIR /src", "WORKDIRS /src"},
		"DuplicateStageName":     {"AS keyd", "AS authzd"},
	} {
		text := strings.Replace(dockerfile(t), change[0], change[1], 1)
		if found := fmt.Sprint(lintDockerfile(t, text)); !strings.Contains(found, name) {
			t.Errorf("%s instead of %s: want %s, found %s", change[1], change[0], name, found)
		}
	}
}
