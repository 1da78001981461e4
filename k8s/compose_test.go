package k8s

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// composeProject loads a compose file as `docker compose` does, with all profiles.
func composeProject(t testing.TB, files []string, environment ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions(files, cli.WithEnv(environment), cli.WithProfiles([]string{"*"}), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

const moduleFileOfCompose = "../envoy/compose/module.yaml"

// composeVariants are the files of the project with authzd, and with the module in place of it.
var composeVariants = map[string][]string{
	"authzd": {"../compose.yaml"},
	"module": {"../compose.yaml", moduleFileOfCompose},
}

func TestCompose(t *testing.T) {
	for _, files := range [][]string{
		composeVariants["authzd"], {"../envoy/compose.yaml"}, composeVariants["module"], {"../envoy/compose.yaml", moduleFileOfCompose},
	} {
		t.Run(strings.Join(files, " "), func(t *testing.T) {
			p := composeProject(t, files)
			if p.Name != "phantom" {
				t.Errorf("project name is %s", p.Name)
			}
			want := []string{"authzd", "echo", "env", "envoy", "keyctl", "keyd", "seed", "tokens"}
			if len(files) > 1 {
				want = want[1:]
			}
			if names := p.ServiceNames(); !slices.Equal(names, want) {
				t.Fatalf("services %v, want %v", names, want)
			}
			for _, s := range p.Services {
				hardened(t, s)
			}
			if len(p.Configs)+len(p.Secrets) > 0 {
				t.Errorf("configs %v, secrets %v: files of the clone must be in the images", p.ConfigNames(), p.SecretNames())
			}
		})
	}
}

func hardened(t *testing.T, s types.ServiceConfig) {
	t.Helper()
	if s.User != "65532:65532" || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
		t.Errorf("%s: must run as user 65532 on a read-only root without capabilities and new privileges", s.Name)
	}
	if s.Build != nil {
		if _, err := os.Stat(s.Build.Context + "/Dockerfile"); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
	if s.Build == nil && !regexp.MustCompile(`:v\d+\.\d+\.\d+$`).MatchString(s.Image) {
		t.Errorf("%s: image %q is not pinned to a version", s.Name, s.Image)
	}
	// User 65532 cannot read files of a clone made with umask 077, and compose cannot copy files into a service with a
	// read-only root.
	for _, v := range s.Volumes {
		if v.Type != types.VolumeTypeVolume {
			t.Errorf("%s mounts %s of the clone", s.Name, v.Source)
		}
	}
}

// Each service mounts only the tokens, sockets and data that it needs: authzd has neither the operator's token nor the owners'
// socket. Envoy has the sidecars' token if it has the module.
func TestComposeVolumes(t *testing.T) {
	for name, files := range composeVariants {
		want := map[string][]string{
			"sidecar-token":  {"authzd reads", "keyd reads", "tokens"},
			"operator-token": {"keyctl reads", "keyd reads", "seed reads", "tokens"},
			"check-socket":   {"authzd", "envoy reads"},
			"owners-socket":  {"envoy reads", "keyd"},
			"keys":           {"keyd"},
			"demo":           {"env reads", "seed"},
		}
		if name == "module" {
			want["sidecar-token"] = []string{"envoy reads", "keyd reads", "tokens"}
			delete(want, "check-socket")
		}
		p := composeProject(t, files)
		got := mounts(p)
		if !maps.EqualFunc(got, want, slices.Equal) || len(p.Volumes) != len(want) {
			t.Errorf("%s: volumes %v, want %v", name, got, want)
		}
	}
}

// mounts returns the services that mount each volume.
func mounts(p *types.Project) map[string][]string {
	got := map[string][]string{}
	for _, s := range p.Services {
		for _, v := range s.Volumes {
			name := s.Name
			if v.ReadOnly {
				name += " reads"
			}
			got[v.Source] = append(got[v.Source], name)
		}
	}
	for _, services := range got {
		slices.Sort(services)
	}
	return got
}

func TestComposeDependenciesAndHealth(t *testing.T) {
	p := composeProject(t, []string{"../compose.yaml"})
	for _, c := range []struct{ service, dependency, condition string }{
		{"keyd", "tokens", types.ServiceConditionCompletedSuccessfully},
		{"authzd", "tokens", types.ServiceConditionCompletedSuccessfully},
		{"envoy", "authzd", types.ServiceConditionHealthy},
		{"envoy", "keyd", types.ServiceConditionHealthy},
		{"envoy", "echo", types.ServiceConditionHealthy},
		{"seed", "envoy", types.ServiceConditionHealthy},
	} {
		if got := p.Services[c.service].DependsOn[c.dependency].Condition; got != c.condition {
			t.Errorf("%s depends on %s: condition %q, want %q", c.service, c.dependency, got, c.condition)
		}
	}
	for _, name := range []string{"keyd", "authzd", "echo", "envoy"} {
		s := p.Services[name]
		if s.HealthCheck == nil || s.HealthCheck.Test[0] != "CMD" {
			t.Errorf("%s: health check must work without a shell", name)
			continue
		}
		if command := strings.Join(s.Command, " "); name != "envoy" && strings.Join(s.HealthCheck.Test[1:], " ") != command+" -healthcheck" {
			t.Errorf("%s: health check is %v: must be the program's -healthcheck", name, s.HealthCheck.Test)
		}
		if s.Restart != "unless-stopped" {
			t.Errorf("%s: restart must be unless-stopped", name)
		}
		if s.MemLimit == 0 {
			t.Errorf("%s: missing memory limit", name)
		}
		if config, err := os.ReadFile("../envoy/config/" + name + ".yaml"); err == nil {
			if stop := stopTime(t.Errorf, string(config)); s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= stop {
				t.Errorf("%s: stop_grace_period must exceed the %v that it may need to stop", name, stop)
			}
		}
	}
}

// With the module Envoy waits for what authzd waits for, and for nothing of it.
func TestComposeModuleDependencies(t *testing.T) {
	envoy := composeProject(t, composeVariants["module"]).Services["envoy"]
	want := map[string]string{
		"tokens": types.ServiceConditionCompletedSuccessfully, "keyd": types.ServiceConditionHealthy, "echo": types.ServiceConditionHealthy,
	}
	if len(envoy.DependsOn) != len(want) {
		t.Errorf("envoy depends on %v", envoy.DependsOn)
	}
	for name, condition := range want {
		if got := envoy.DependsOn[name].Condition; got != condition {
			t.Errorf("envoy depends on %s: condition %q, want %q", name, got, condition)
		}
	}
	config, err := os.ReadFile("../envoy/config/module.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if stop := stopTime(t.Errorf, string(config)); envoy.StopGracePeriod == nil || time.Duration(*envoy.StopGracePeriod) <= stop {
		t.Errorf("stop_grace_period must exceed the %v that the module may need to stop", stop)
	}
}

// Only Envoy publishes a port, on loopback. Neither Envoy nor the upstream shares a network with keyd.
func TestComposeNetworks(t *testing.T) {
	p := composeProject(t, []string{"../compose.yaml"}, "PORT=12345")
	for _, s := range p.Services {
		switch {
		case s.Name != "envoy" && len(s.Ports) > 0:
			t.Errorf("%s publishes a port", s.Name)
		case s.Name == "envoy" && (len(s.Ports) != 1 || s.Ports[0].HostIP != "127.0.0.1" || s.Ports[0].Published != "12345" || s.Ports[0].Target != 10000):
			t.Errorf("envoy publishes %+v", s.Ports)
		}
	}
	for _, name := range []string{"envoy", "echo"} {
		if _, shared := p.Services[name].Networks["keys"]; shared {
			t.Errorf("%s shares a network with keyd", name)
		}
	}
	if !p.Networks["keys"].Internal {
		t.Error("keyd's network must be internal")
	}
}

// Compose, Kubernetes and the demo run the same Envoy.
func TestOneEnvoyVersion(t *testing.T) {
	find, err := os.ReadFile("../envoy/find.go")
	if err != nil {
		t.Fatal(err)
	}
	want := "envoyproxy/envoy:v" + regexp.MustCompile(`Newest\s+= "([\d.]+)"`).FindStringSubmatch(string(find))[1]
	if !strings.Contains(dockerfile(t), "\nARG ENVOY_IMAGE="+want+"\n") {
		t.Errorf("compose does not run %s", want)
	}
	gateway := load(t, "base").mustPod(t, "gateway")
	if got := gateway.container("envoy").Image; got != want {
		t.Errorf("Kubernetes runs %s, want %s", got, want)
	}
	withModule := load(t, moduleOverlay(t)).mustPod(t, "gateway").container("envoy").Image
	if _, version, _ := strings.Cut(want, ":v"); !strings.HasSuffix(withModule, "-envoy"+version) {
		t.Errorf("the module's image is %s: must end with the version %s", withModule, version)
	}
}
