package daemon

import (
	"runtime"
	"runtime/debug"
)

// version is set by the linker: -X github.com/phantomrouter/phantom-authz/pkg/daemon.version=v1.2.3
var version string

// Version returns the version that the linker has set or that of the module, with the commit, if
// known, and the version of Go.
func Version() string {
	v, commit, goVersion := versionParts()
	if commit != "" {
		commit = "commit " + commit + ", "
	}
	return v + " (" + commit + goVersion + ")"
}

func versionParts() (v, commit, goVersion string) {
	v, goVersion = version, runtime.Version()
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value[:min(len(s.Value), 12)]
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if commit != "" && modified {
		commit += ", modified"
	}
	if v == "" {
		v = info.Main.Version
	}
	if v == "" || v == "(devel)" {
		v = "development version"
	}
	return v, commit, goVersion
}
