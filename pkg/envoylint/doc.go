// Package envoylint checks Envoy's configuration for what the proof of revocation and the contract
// with callers rest on: every request is checked, no answer of a check is changed or cached, an error
// is never an allow, and no client can send identity headers.
//
// Lint reads a static configuration file, or the answer of Envoy's /config_dump, as a tree of
// mappings and lists. It finds messages by @type and fields by name, in snake_case or lowerCamelCase.
// It uses no generated types of Envoy's messages: authzd would have to link those of every filter, and
// they reject fields of later versions of Envoy. The price is that a misspelt field counts as absent,
// which `envoy --mode validate` detects.
//
// A rule (rules.go) reports one condition. manager.go finds the HTTP connection managers, and the
// other files check their parts: the filter of the check (filter.go), virtual hosts and routes
// (host.go), CORS (cors.go), local replies (reply.go), clusters and Envoy's version (cluster.go).
// routes.go lists each route with its requirement. The facts about Envoy in the rules were measured
// with Envoy 1.36 to 1.40.
//
// The time is linear in the size of the file, but quadratic in the number of findings and of routes,
// which are compared with one another. The shipped file takes some milliseconds.
package envoylint
