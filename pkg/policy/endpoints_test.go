package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

func TestEndpointsMatch(t *testing.T) {
	name := func(s string) policy.Requirement { return policy.NewRequirement(policy.Any, s) }
	table, err := policy.NewEndpoints([]policy.Endpoint{
		{Prefix: true, Path: "/", Requirement: name("root")},
		{Prefix: true, Path: "/api", Requirement: name("api")},
		{Prefix: true, Path: "/api/v1/chat", Requirement: name("chat")},
		{Path: "/api/v1/me", Methods: []string{"GET", "PUT"}, Requirement: name("me")},
		{Path: "/api/v1/me", Methods: []string{"GET"}, Host: "admin.example", Requirement: name("admin")},
		{Path: "/only", Host: "a.example", Requirement: name("only")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ method, host, target, want string }{
		{"GET", "x", "/", "root"},
		{"GET", "x", "/other", "root"},
		{"GET", "x", "/api", "api"},
		{"GET", "x", "/api/", "api"},
		{"GET", "x", "/apis", "root"},
		{"GET", "x", "/api/v1/chat", "chat"},
		{"GET", "x", "/api/v1/chat?x=/../y", "chat"},
		{"GET", "x", "/api/v1/chat/a/b/c", "chat"},
		{"GET", "x", "/api/v1/chatter", "api"},
		{"GET", "x", "/api/v1/%63hat", "chat"},
		{"GET", "x", "/api/v1/Chat", "api"},
		{"GET", "x", "/api/v1/me", "me"},
		{"GET", "admin.example", "/api/v1/me", "admin"},
		{"GET", "ADMIN.example.:8080", "/api/v1/me", "admin"},
		{"PUT", "admin.example", "/api/v1/me", "me"},
		{"DELETE", "x", "/api/v1/me", ""},
		{"GET", "x", "/api/v1/me/", "api"},
		{"GET", "b.example", "/only", ""},
		{"GET", "a.example", "/only", "only"},
		{"GET", "a.example,b", "/only", ""},
		{"GET", "[::1]:80", "/", "root"},
		{"GET", "", "/", "root"},
		{"GET", "a_b.example", "/", "root"},
		{"GET", "[::1", "/", ""},
		{"GET", "[::1]x", "/", ""},
		{"GET", "a.example..", "/", ""},
		{"GET", "a%2eexample", "/", ""},
		{"GET", "\u212a.example", "/", ""}, // the Kelvin sign, k in lower case
		{"GET", "user@a.example", "/only", ""},
		{"get", "x", "/api/v1/me", ""},
		{"get", "admin.example", "/api/v1/me", ""},
		{"get", "x", "/api", "api"},
		{"GET", "x", "", ""},
		{"GET", "x", "*", ""},
		{"GET", "x", "//api", ""},
		{"GET", "x", "/api//v1", ""},
		{"GET", "x", "/api/./v1", ""},
		{"GET", "x", "/api/v1/..", ""},
		{"GET", "x", "/api/%2e%2E/x", ""},
		{"GET", "x", "/api/.%2e", ""},
		{"GET", "x", "/api/..;/x", ""},
		{"GET", "x", "/api;a=b", ""},
		{"GET", "x", `/api\v1`, ""},
		{"GET", "x", "/api%2Fv1", ""},
		{"GET", "x", "/api%5cv1", ""},
		{"GET", "x", "/api%00", ""},
		{"GET", "x", "/api\x00", ""},
		{"GET", "x", "/apiä", ""},
		{"GET", "x", "/api#frag", ""},
		{"GET", "x", "/api/...", "api"},
		{"GET", "x", "/api/%252e%252e", "api"},
		{"GET", "x", "/api/%zz%2", "api"},
		{"GET", "x", "/api/%%32e", ""},
		{"GET", "x", "/api/%2%46", ""}, // %2F when it is decoded once
	} {
		got := table.Match(tt.method, tt.host, tt.target)
		want := policy.Requirement{}
		if tt.want != "" {
			want = name(tt.want)
		}
		if strings.Join(got.Scopes(), " ") != strings.Join(want.Scopes(), " ") || got.Principal != want.Principal {
			t.Errorf("%s %s %q: got %v, want %q", tt.method, tt.host, tt.target, got, tt.want)
		}
	}
	if r := (policy.Endpoints{}).Match("GET", "x", "/"); r.Principal != policy.NoPrincipal {
		t.Errorf("the empty table: %v", r)
	}
}

func TestOverlappingEntriesAreErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		list []policy.Endpoint
		ok   bool
	}{
		{"same path, one shared method", []policy.Endpoint{{Path: "/a", Methods: []string{"GET", "PUT"}}, {Path: "/a", Methods: []string{"PUT"}}}, false},
		{"same path, every method", []policy.Endpoint{{Path: "/a"}, {Path: "/a", Methods: []string{"PUT"}}}, false},
		{"other method", []policy.Endpoint{{Path: "/a", Methods: []string{"GET"}}, {Path: "/a", Methods: []string{"PUT"}}}, true},
		{"other host", []policy.Endpoint{{Path: "/a", Host: "x"}, {Path: "/a"}}, true},
		{"exact and prefix", []policy.Endpoint{{Path: "/a"}, {Path: "/a", Prefix: true}}, true},
		{"host in another case", []policy.Endpoint{{Path: "/a", Host: "B.Example"}, {Path: "/a", Host: "b.eXample"}}, false},
		{"path with an escape", []policy.Endpoint{{Path: "/a.b"}, {Path: "/a%2eb"}}, false},
		{"escape in another case", []policy.Endpoint{{Path: "/a%3ab"}, {Path: "/a%3Ab"}}, false},
		{"escape of a reserved character", []policy.Endpoint{{Path: "/a:b"}, {Path: "/a%3Ab"}}, true},
	} {
		if _, err := policy.NewEndpoints(tt.list); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// An entry matches in any spelling of its host and path, and wins over weaker entries.
func TestEntriesMatchInAnySpelling(t *testing.T) {
	for _, tt := range []struct{ path, host, requestPath, requestHost string }{
		{"/a", "B.Example", "/a", "b.example"},
		{"/a", "B.Example", "/a", "B.EXAMPLE:8080"},
		{"/a", "b.example", "/a", "B.example."},
		{"/a", "[FE80::1]", "/a", "[fe80::1]:80"},
		{"/a%2Eb", "", "/a.b", "x"},
		{"/a%2eb", "", "/a%2Eb", "x"},
		{"/%7Euser/%61", "", "/~user/a", "x"},
		{"/a%3ab", "", "/a%3Ab", "x"},
	} {
		for _, prefix := range []bool{false, true} {
			strict := policy.NewRequirement(policy.SessionOnly, "")
			table, err := policy.NewEndpoints([]policy.Endpoint{
				{Path: "/", Prefix: true, Requirement: policy.NewRequirement(policy.Any, "")},
				{Path: tt.path, Host: tt.host, Prefix: prefix, Requirement: strict},
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := table.Match("GET", tt.requestHost, tt.requestPath); got.Principal != policy.SessionOnly {
				t.Errorf("entry %q of %q, prefix %v: %q of %q gets %v", tt.path, tt.host, prefix, tt.requestPath, tt.requestHost, got)
			}
		}
	}
}

func TestEntriesThatNeverMatchAreErrors(t *testing.T) {
	for _, tt := range []struct {
		entry policy.Endpoint
		why   string
	}{
		{policy.Endpoint{}, "must begin with /"},
		{policy.Endpoint{Path: "a"}, "must begin with /"},
		{policy.Endpoint{Path: "/a?b"}, "query"},
		{policy.Endpoint{Path: "/a#b"}, "query"},
		{policy.Endpoint{Path: "/a b"}, "without space"},
		{policy.Endpoint{Path: "/ä"}, "printable ASCII"},
		{policy.Endpoint{Path: "/a;b"}, ";"},
		{policy.Endpoint{Path: `/a\b`}, `\`},
		{policy.Endpoint{Path: "//a"}, "//"},
		{policy.Endpoint{Path: "/a/.."}, "dot segment"},
		{policy.Endpoint{Path: "/a/%2e%2E/b"}, "dot segment"},
		{policy.Endpoint{Path: "/./a"}, "dot segment"},
		{policy.Endpoint{Path: "/a%2fb"}, "%2f"},
		{policy.Endpoint{Path: "/a%5Cb"}, "%5c"},
		{policy.Endpoint{Path: "/a%00b"}, "%00"},
		{policy.Endpoint{Path: "/%%32e"}, "escape within an escape"},
		{policy.Endpoint{Path: "/a/", Prefix: true}, "must not end in /"},
		{policy.Endpoint{Path: "/a", Host: "b.example."}, "dot"},
		{policy.Endpoint{Path: "/a", Host: "b.example:80"}, "port"},
		{policy.Endpoint{Path: "/a", Host: "b.example.:80"}, "dot"},
		{policy.Endpoint{Path: "/a", Host: "[::1]:80"}, "port"},
		{policy.Endpoint{Path: "/a", Host: "b/c"}, "must be a host"},
		{policy.Endpoint{Path: "/a", Host: ":80"}, "must be a host"},
	} {
		if _, err := policy.NewEndpoints([]policy.Endpoint{tt.entry}); err == nil || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%+v: %v, want %q", tt.entry, err, tt.why)
		}
	}
}

// tables draws endpoint tables of few names, so that entries compete. The scope of each
// requirement is the number of its entry.
var tables = rapid.Custom(func(t *rapid.T) []policy.Endpoint {
	entries := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) policy.Endpoint {
		return policy.Endpoint{
			Methods: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"GET", "PUT"}), 0, 2, rapid.ID).Draw(t, "methods"),
			Host:    rapid.SampledFrom([]string{"", "a.example", "b.example"}).Draw(t, "host"),
			Path:    strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"/a", "/b.c", "/d:e", "/%3B"}), 1, 3).Draw(t, "path"), ""),
			Prefix:  rapid.Bool().Draw(t, "prefix"),
		}
	}), 1, 12).Draw(t, "table")
	if rapid.Bool().Draw(t, "root") {
		entries = append(entries, policy.Endpoint{Path: "/", Prefix: true})
	}
	var table []policy.Endpoint
	for i, e := range entries {
		if slices.ContainsFunc(table, func(before policy.Endpoint) bool { _, both := e.Overlap(before); return both }) {
			continue
		}
		e.Requirement = policy.NewRequirement(policy.Any, fmt.Sprint("s", i))
		table = append(table, e)
	}
	return table
})

// expected returns the requirement by the contract's precedence for a normalized request.
func expected(table []policy.Endpoint, method, host, path string) policy.Requirement {
	best, exact := "", false
	for _, e := range table {
		within := e.Prefix && (e.Path == "/" || e.Path == path || strings.HasPrefix(path, e.Path+"/"))
		switch {
		case !e.Prefix && e.Path == path:
			best, exact = e.Path, true
		case within && !exact && len(e.Path) > len(best):
			best = e.Path
		}
	}
	for _, at := range []string{host, ""} {
		for _, e := range table {
			if e.Path == best && e.Prefix != exact && e.Host == at && (len(e.Methods) == 0 || slices.Contains(e.Methods, method)) {
				return e.Requirement
			}
		}
	}
	return policy.Requirement{}
}

// respell returns an equivalent spelling of a path: bits choose which unreserved characters are
// escaped, and the case of the escapes' digits.
func respell(path string, bits []byte) string {
	bit := func(i int) bool { return len(bits) > 0 && bits[i/8%len(bits)]>>(i%8)&1 == 1 }
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '%':
			escape := path[i : i+3]
			if bit(i) {
				escape = strings.ToLower(escape)
			}
			b.WriteString(escape)
			i += 2
		case strings.IndexByte("/:", c) >= 0 || !bit(i):
			b.WriteByte(c)
		case bit(i + 1):
			fmt.Fprintf(&b, "%%%02x", c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// The precedence is the contract's for any table and any spelling of host and path in the request
// and in the table. A method in another case is denied or gets the same requirement.
func TestPrecedenceOfEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := tables.Draw(t, "table")
		method := rapid.SampledFrom([]string{"GET", "PUT", "POST"}).Draw(t, "method")
		host := rapid.SampledFrom([]string{"a.example", "b.example", "c.example"}).Draw(t, "host")
		path := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"/a", "/b.c", "/d:e", "/%3B", "/"}), 1, 4).Draw(t, "path"), "")
		if strings.Contains(path, "//") {
			return
		}
		spelled := slices.Clone(list)
		for i := range spelled {
			spelled[i].Path = respell(spelled[i].Path, rapid.SliceOf(rapid.Byte()).Draw(t, "spelling"))
			if rapid.Bool().Draw(t, "capitals") {
				spelled[i].Host = strings.ToUpper(spelled[i].Host)
			}
		}
		table, err := policy.NewEndpoints(spelled)
		if err != nil {
			t.Fatal(err)
		}
		target := respell(path, rapid.SliceOf(rapid.Byte()).Draw(t, "spelling")) + rapid.SampledFrom([]string{"", "?", "?/../;"}).Draw(t, "query")
		authority := rapid.SampledFrom([]string{host, strings.ToUpper(host)}).Draw(t, "case") + rapid.SampledFrom([]string{"", ".", ":80", ".:80"}).Draw(t, "port")
		want := expected(list, method, host, path)
		if got := table.Match(method, authority, target); !same(got, want) {
			t.Fatalf("%s %s %s of %+v: got %v, want %v", method, authority, target, spelled, got, want)
		}
		if got := table.Match(strings.ToLower(method), authority, target); !same(got, want) && got.Principal != policy.NoPrincipal {
			t.Fatalf("%s in lower case gets %v, want %v or nothing", method, got, want)
		}
	})
}

func same(a, b policy.Requirement) bool {
	return a.Principal == b.Principal && slices.Equal(a.Scopes(), b.Scopes())
}

// FuzzMatch tests that a target that matches has no ambiguous spelling, and that no other spelling
// of target and host, by escapes, case, port, dot or query, gets another requirement.
func FuzzMatch(f *testing.F) {
	for _, s := range []string{
		"/api/v1/chat", "/api/v1/chat/../me", "/%61pi/v1/chat", "//", "/api/v1/chat?x", "/api/v1/chat%2f", "/..;/", "/a%2",
		"/%%32e", "/%2%35", "/api/v1/x%3ay", "/api/v1/m%65",
	} {
		f.Add("GET", "b.example", s, []byte{0xa5, 0x3c})
	}
	f.Add("put", "B.Example.:80", "/api/v1/me", []byte{})
	table, err := policy.NewEndpoints([]policy.Endpoint{
		{Path: "/", Prefix: true, Requirement: policy.NewRequirement(policy.Any, "")},
		{Path: "/api/v1/chat", Prefix: true, Requirement: policy.NewRequirement(policy.Any, "chat")},
		{Path: "/api/v1/me", Methods: []string{"PUT"}, Host: "B.example", Requirement: policy.NewRequirement(policy.Any, "put")},
		{Path: "/api/v1/me", Requirement: policy.NewRequirement(policy.Any, "me")},
		{Path: "/api/v1/x%3Ay", Requirement: policy.NewRequirement(policy.Any, "xy")},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, host, target string, bits []byte) {
		got := table.Match(method, host, target)
		if got.Principal == policy.NoPrincipal {
			return
		}
		path, _, _ := strings.Cut(target, "?")
		lower := strings.ToLower(path)
		for _, bad := range []string{";", `\`, "//", "%2f", "%5c", "%00", "#"} {
			if strings.Contains(lower, bad) {
				t.Fatalf("%q matched", target)
			}
		}
		for _, segment := range strings.Split(strings.ReplaceAll(lower, "%2e", "."), "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("%q matched", target)
			}
		}
		normal, err := policy.NormalizePath(path)
		if err != nil {
			t.Fatalf("%q matched, but %v", target, err)
		}
		if again, err := policy.NormalizePath(normal); err != nil || again != normal {
			t.Fatalf("%q is %q normalized once and %q twice, %v", path, normal, again, err)
		}
		if other := table.Match(method, strings.ToUpper(host), normal+"?/../;"); !same(other, got) {
			t.Fatalf("%q of %q: %v, and %q gets %v", target, host, got, normal, other)
		}
		if strings.Contains(strings.ReplaceAll(lower, "%3a", ""), "%") {
			return // respell does not support other escapes
		}
		if other := table.Match(method, host, respell(path, bits)); !same(other, got) {
			t.Fatalf("%q: %v, and %q gets %v", target, got, respell(path, bits), other)
		}
	})
}
