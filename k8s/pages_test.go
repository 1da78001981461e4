package k8s

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// fenced returns the code blocks of a language in a page.
func fenced(t *testing.T, page, language string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) == 0 {
		t.Fatalf("%s has no block of %s", page, language)
	}
	return blocks
}

const kubernetesPage = "../docs/kubernetes.md"

// pageFolder returns a copy of this folder with the demo's secrets and the files that the page shows. The first line of a block is
// its path.
func pageFolder(t *testing.T) string {
	t.Helper()
	folder := filepath.Dir(filepath.Dir(demo(t)))
	for _, block := range fenced(t, kubernetesPage, "yaml") {
		path, isPath := strings.CutPrefix(strings.SplitN(block, "\n", 2)[0], "# ")
		if !isPath {
			t.Errorf("the first line must be the path of the file:\n%s", block)
			continue
		}
		write(t, filepath.Join(folder, path), []byte(block))
	}
	return folder
}

// The page's overlay for production follows the rules, except that its keyd.yaml and database are its own.
func TestProductionOfPage(t *testing.T) {
	m := load(t, filepath.Join(pageFolder(t), "overlays/production"))
	for _, f := range withPostgres.findings(m) {
		if f.rule != "configuration" && f.rule != "network" {
			t.Error(f)
		}
	}
	keyd := named("keyd")
	if !m.egressToAddress(keyd, "192.0.2.10", 5432) || m.egressToAddress(keyd, "192.0.2.11", 5432) || !m.egressToAddress(keyd, nodeLocalDNS, 53) {
		t.Error("keyd must reach DNS and its database, and nothing else")
	}
	if image := m.mustPod(t, "gateway").container("authzd").Image; image != "registry.example/phantom-authz:1.0" {
		t.Errorf("image %s", image)
	}
	m.secrets = load(t, overlay(t, onDatabase)).secrets
	check(t, "keyd", m.configFile(t, m.mustPod(t, "keyd"), "keyd"))
}

func TestNodeLocalDNSOfPage(t *testing.T) {
	m := load(t, filepath.Join(pageFolder(t), "overlays/ipv6"))
	at := regexp.MustCompile(`value: "(fd.*)"`).FindStringSubmatch(strings.Join(fenced(t, kubernetesPage, "yaml"), ""))[1]
	address := netip.MustParsePrefix(at).Addr().String()
	if !m.egressToAddress(named("gateway"), address, 53) || m.egressToAddress(named("gateway"), address, 80) {
		t.Errorf("the gateway must reach %s for DNS only", at)
	}
}

// kubectl replaces the command of that name. An exec in keyd's Pod runs the program here. Others are recorded.
const kubectl = `
kubectl() {
	printf '%s\n' "$*" >>"$RECORD"
	case "$*" in
	"-n phantom exec keyd-0 -- "* | "-n phantom exec deployment/keyd -- "*) shift 5; "$@" ;;
	"-n phantom create secret generic "*) test "$(wc -c)" -eq 64 ;;
	"apply -k "* | "label namespace "* | "taint nodes "* | "-n phantom port-forward service/gateway 10000:80") ;;
	*) echo "unexpected: kubectl $*" >&2; return 1 ;;
	esac
}
curl() { :; }
helm() { test "$*" = "install phantom chart -n phantom --create-namespace -f values.yaml"; }
`

// TestCommandsOfPage runs the commands of the page in one shell, and builds what they apply.
func TestCommandsOfPage(t *testing.T) {
	folder := pageFolder(t)
	m := load(t, filepath.Join(folder, "overlays/demo"))
	socket := strings.TrimPrefix(runKeyd(t, m)["operators"], "unix://")
	tokens := m.volumes(t, m.mustPod(t, "keyd"))["operators"]
	write(t, filepath.Join(tokens, "carol"), m.secret(t, "operator-tokens")["alice"]) // the operator of the page's overlay
	script := kubectl + strings.Join(fenced(t, kubernetesPage, "sh"), "")
	script = strings.ReplaceAll(script, "/etc/phantom-operators/", tokens+"/")
	record := filepath.Join(t.TempDir(), "record")
	shell := exec.Command("sh", "-ec", script)
	shell.Dir = folder
	shell.Env = append(os.Environ(), "RECORD="+record, "KEYCTL_URL=unix://"+socket, "PATH="+filepath.Dir(program(t, "keyctl"))+":"+os.Getenv("PATH"))
	out, err := shell.CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^phk_[0-9A-Za-z]{38}$`).Match(out) {
		t.Fatalf("%v\n%s", err, out)
	}
	recorded, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	applied := regexp.MustCompile(`(?m)^apply -k (\S+)$`).FindAllStringSubmatch(string(recorded), -1)
	for _, a := range applied {
		load(t, filepath.Join(folder, a[1]))
	}
	secrets := regexp.MustCompile(`(?m)create secret generic (\S+) `).FindAllStringSubmatch(string(recorded), -1)
	for _, s := range secrets {
		if required[s[1]] == nil {
			t.Errorf("no Pod mounts the Secret %s", s[1])
		}
	}
	if len(applied) != 4 || len(secrets) != 2 {
		t.Errorf("applied %v, created %v", applied, secrets)
	}
}

// The chart accepts the values of the page.
func TestValuesOfPage(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(pageFolder(t), "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	m, err := decode(mustTemplate(t, "phantom", values))
	if err != nil {
		t.Fatal(err)
	}
	if files := m.files(); !strings.Contains(files["keyd.yaml"], "db.example") || !strings.Contains(files["authzd.yaml"], "credentials: 200000") {
		t.Errorf("the values have no effect:\n%s\n%s", files["keyd.yaml"], files["authzd.yaml"])
	}
}

// secret returns the data of a Secret.
func (m *manifests) secret(t *testing.T, name string) map[string][]byte {
	t.Helper()
	for _, s := range m.secrets {
		if s.Name == name {
			return s.Data
		}
	}
	t.Fatalf("missing Secret %s", name)
	return nil
}

// What the page says to apply or to use exists, and each component and overlay is on a page.
func TestPagesNameAllFolders(t *testing.T) {
	var pages strings.Builder
	for _, page := range []string{kubernetesPage, "README.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		pages.Write(text)
	}
	for _, kind := range []string{"components", "overlays"} {
		folders, err := os.ReadDir(kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range folders {
			if !strings.Contains(pages.String(), "`"+kind+"/"+f.Name()) {
				t.Errorf("no page names %s/%s", kind, f.Name())
			}
		}
	}
	folder := pageFolder(t)
	for _, m := range regexp.MustCompile("`((?:components|overlays|names)/[a-z0-9-]+)").FindAllStringSubmatch(pages.String(), -1) {
		if _, err := os.Stat(filepath.Join(folder, m[1])); err != nil {
			t.Error(err)
		}
	}
}

// TestComposePage validates the commands of the page with the project, and runs those of keyctl.
func TestComposePage(t *testing.T) {
	m := load(t, demo(t))
	socket := strings.TrimPrefix(runKeyd(t, m)["operators"], "unix://")
	token := filepath.Join(m.volumes(t, m.mustPod(t, "keyd"))["operators"], "alice")
	keyctl := func(args ...string) {
		t.Helper()
		cmd := exec.Command(program(t, "keyctl"), args...)
		cmd.Env = append(os.Environ(), "KEYCTL_URL=unix://"+socket, "KEYCTL_TOKEN_FILE="+token)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("keyctl %v: %v\n%s", args, err, out)
		}
	}
	keyctl("account", "create", "-id", "ACCOUNT", "-name", "Acme")
	ran := map[string]int{}
	for line := range strings.Lines(strings.Join(fenced(t, "../docs/compose.md", "sh"), "")) {
		command, _, _ := strings.Cut(line, "#")
		words := strings.Fields(command)
		if len(words) < 3 || words[0] != "docker" || words[1] != "compose" {
			t.Errorf("not a command of docker compose: %s", line)
			continue
		}
		files, words := []string{}, words[2:]
		for words[0] == "-f" {
			files, words = append(files, "../"+words[1]), words[2:]
		}
		if len(files) == 0 {
			files = composeVariants["authzd"]
		}
		project := composeProject(t, files)
		ran[words[0]]++
		if words[0] != "run" {
			continue
		}
		words = slices.DeleteFunc(words[1:], func(word string) bool { return word == "--rm" || word == "-T" })
		if _, found := project.Services[words[0]]; !found {
			t.Errorf("no service %s: %s", words[0], line)
		}
		if words[0] == "keyctl" {
			keyctl(words[1:]...)
		}
	}
	if ran["up"] != 2 || ran["run"] != 3 || ran["down"] != 1 {
		t.Errorf("the page has %v", ran)
	}
}
