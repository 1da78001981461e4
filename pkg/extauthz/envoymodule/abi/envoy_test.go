//go:build cgo

package abi

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sdkFolder returns the folder of Envoy's file abi.h.
func sdkFolder(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/envoyproxy/envoy/source/extensions/dynamic_modules/abi").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// compile compiles a C program that includes Envoy's declarations and then those in text.
func compile(t *testing.T, text string) ([]byte, error) {
	t.Helper()
	folder := t.TempDir()
	program := "#include \"abi.h\"\n#include \"envoy.h\"\n"
	for name, content := range map[string]string{"envoy.h": text, "main.c": program} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	compiler, err := exec.Command("go", "env", "CC").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(strings.TrimSpace(string(compiler)), "-Werror", "-fsyntax-only", "-I", sdkFolder(t), filepath.Join(folder, "main.c"))
	return cmd.CombinedOutput()
}

// The compiler rejects a function that is declared twice with different types.
func TestDeclarationsAreThoseOfEnvoy(t *testing.T) {
	text, err := os.ReadFile("envoy.h")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := compile(t, string(text)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for from, to := range map[string]string{
		"uint64_t event":                   "uint32_t event",
		"text name, text value":            "text name, const char* value",
		"size_t* id":                       "uint32_t* id",
		"module_stream, bool end)":         "module_stream)",
		"typedef const void* module_route": "typedef void* module_route",
		"bool ENVOY(http_set_header)":      "int ENVOY(http_set_header)",
	} {
		changed := strings.Replace(string(text), from, to, 1)
		if changed == string(text) {
			t.Errorf("envoy.h has no %q", from)
		}
		if _, err := compile(t, changed); err == nil {
			t.Errorf("%q in place of %q was accepted", to, from)
		}
	}
}

// The structures and enumerations cannot be declared twice, so their text is compared.
func TestTypesAreThoseOfEnvoy(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		withoutComments := regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`).ReplaceAll(text, nil)
		return strings.Join(strings.Fields(string(withoutComments)), " ")
	}
	theirs, ours := read(filepath.Join(sdkFolder(t), "abi.h")), read("envoy.h")
	for _, name := range []string{"envoy_buffer", "module_buffer", "envoy_http_header", "module_http_header"} {
		structure := regexp.MustCompile(`\{([^{}]*)\} envoy_dynamic_module_type_` + name + `;`)
		pointers := strings.NewReplacer("envoy_dynamic_module_type_buffer_envoy_ptr", "const char*", "envoy_dynamic_module_type_buffer_module_ptr", "const char*")
		want, got := structure.FindStringSubmatch(theirs), structure.FindStringSubmatch(ours)
		if want == nil || got == nil || pointers.Replace(want[1]) != got[1] {
			t.Errorf("%s has the fields %v, want %v", name, got, want)
		}
	}
	for constant, value := range map[string]string{
		"request_headers = 0":            "http_header_type { envoy_dynamic_module_type_http_header_type_RequestHeader,",
		"headers_continue = 0":           "on_http_filter_request_headers_status { envoy_dynamic_module_type_on_http_filter_request_headers_status_Continue,",
		"headers_stop_and_watermark = 4": "_status_StopIteration, envoy_dynamic_module_type_on_http_filter_request_headers_status_ContinueAndDontEndStream, envoy_dynamic_module_type_on_http_filter_request_headers_status_StopAllIterationAndBuffer, envoy_dynamic_module_type_on_http_filter_request_headers_status_StopAllIterationAndWatermark,",
		"log_warning = 3":                "log_level_Trace, envoy_dynamic_module_type_log_level_Debug, envoy_dynamic_module_type_log_level_Info, envoy_dynamic_module_type_log_level_Warn,",
		"metrics_success = 0":            "metrics_result { envoy_dynamic_module_type_metrics_result_Success,",
		"ABI_VERSION \"v0.1.0\"":         "#define ENVOY_DYNAMIC_MODULES_ABI_VERSION \"v0.1.0\"",
		"MODULE(program_init)(void)":     "envoy_dynamic_module_on_program_init(void)",
	} {
		if !strings.Contains(ours, constant) || !strings.Contains(theirs, value) {
			t.Errorf("%s does not agree with Envoy's declaration", constant)
		}
	}
}

// Envoy looks up every function when it loads the configuration.
func TestAllFunctionsAreDefined(t *testing.T) {
	var text string
	for _, name := range []string{"filter.c", "config.c", "unused.c"} {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text += string(content)
	}
	theirs, err := os.ReadFile(filepath.Join(sdkFolder(t), "abi.h"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, match := range regexp.MustCompile(`\benvoy_dynamic_module_on_(program_init|http_filter_\w+)\(`).FindAllSubmatch(theirs, -1) {
		n++
		if name := string(match[1]); !strings.Contains(text, "MODULE("+name+")(") && !strings.Contains(text, "UNUSED("+name+")") {
			t.Errorf("%s is not defined", name)
		}
	}
	if n < 29 {
		t.Errorf("found %d functions only", n)
	}
}
