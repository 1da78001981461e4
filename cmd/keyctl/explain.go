package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/explain"
)

const (
	explainAbout = `Explain how a running sidecar would decide a request, step by step, and how old each fact is.

The key or session token comes from standard input; without one, the request has no credential. It stays here: the sidecar
gets its kind, format and SHA-256. The sidecar runs the steps of a check, so a credential that it has not cached is looked
up. It counts neither as a check nor as a use of the key.

Envoy's matched route states the requirement of a request, which the sidecar does not know: give it with --principal and
--require-scope. Without both, the sidecar's own endpoint table applies, as for a route that states nothing.`

	explainExamples = `  keyctl explain -sidecar http://127.0.0.1:9192 -path /api/v1/chat -require-scope chat:companion < key.txt
  keyctl explain -path /api/v1/me/billing -principal session -origin https://app.phantomrouter.ai < session.txt`

	sidecarVariable = "KEYCTL_SIDECAR"
	// maxCredential is the size of a credential in bytes that is read. The contract allows 512; more is
	// invalid in any case, and is reported as such.
	maxCredential = 4 << 10
)

// explainFlags holds the values of the flags of explain.
type explainFlags struct {
	sidecar, kind string
	request       explain.Request
	scopes        []string
	principal     string
}

// define defines the flags.
func (e *explainFlags) define(f *pflag.FlagSet) {
	text := func(to *string, name, help string) {
		f.Func(name, help, func(v string) error { *to = v; return notEmpty(v) })
	}
	text(&e.sidecar, "sidecar", "`URL` of the sidecar's admin listener: http://HOST:PORT or unix:///PATH")
	text(&e.request.Method, "method", "`METHOD` of the request; default GET")
	text(&e.request.Path, "path", "`PATH` of the request, which may have a query")
	text(&e.request.Host, "host", "`HOST` of the request, for entries of the endpoint table that have one")
	text(&e.request.Origin, "origin", "`ORIGIN` that the browser sends with a session")
	text(&e.request.SecFetchSite, "sec-fetch-site", "`VALUE` of Sec-Fetch-Site that the browser sends with a session: same-origin, cross-site")
	f.Func("require-scope", "`NAME` of a scope that Envoy's route requires; repeat the flag for more", func(v string) error {
		e.scopes = append(e.scopes, v)
		return notEmpty(v)
	})
	oneOf := func(to *string, name, help string, allowed ...string) {
		f.Func(name, help, func(v string) error {
			*to = v
			for _, a := range allowed {
				if v == a {
					return nil
				}
			}
			return errors.New("must be " + strings.Join(allowed[:len(allowed)-1], ", ") + " or " + allowed[len(allowed)-1])
		})
	}
	oneOf(&e.principal, "principal", "`KIND` of credential that Envoy's route accepts: any, key or session", "any", "key", "session")
	oneOf(&e.kind, "as", "`KIND` of credential in standard input: key (sent as Bearer) or session (as cookie); default by its prefix", "key", "session")
}

// explain makes the command.
func (c *cli) explain() *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain --path PATH", GroupID: operation, Short: "Explain how a sidecar would decide a request", Long: explainAbout, Example: explainExamples,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unexpected argument %q after %q: all is given by flags, and the key by standard input", args[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			url := c.explained.sidecar
			if url == "" {
				url = c.getenv(sidecarVariable)
			}
			if url == "" {
				return fmt.Errorf("missing --sidecar (or %s)", sidecarVariable)
			}
			client, err := explain.NewClient(url)
			if err != nil {
				return fmt.Errorf("--sidecar or %s: %w", sidecarVariable, err)
			}
			defer client.Close()
			plaintext, err := readCredential(os.Stdin)
			if err != nil {
				return err
			}
			c.code = c.runExplain(cmd.Context(), client, plaintext)
			return nil
		},
	}
	for _, name := range strings.Fields("sidecar path method host origin sec-fetch-site require-scope principal as") {
		flag := *c.flags.Lookup(name)
		cmd.Flags().AddFlag(&flag)
		completeFlag(cmd, name)
	}
	_ = cmd.MarkFlagRequired("path")
	return cmd
}

// readCredential reads a credential of one line. A terminal has none.
func readCredential(file *os.File) (credential.Secret, error) {
	if isTerminal(file) {
		return credential.Secret{}, nil
	}
	text, err := io.ReadAll(io.LimitReader(file, maxCredential+1))
	if err != nil {
		return credential.Secret{}, fmt.Errorf("read standard input: %w", err)
	}
	line := strings.TrimRight(string(text), "\r\n")
	switch {
	case len(text) > maxCredential:
		return credential.Secret{}, fmt.Errorf("standard input is invalid: must be a key or session token of at most %d bytes", maxCredential)
	case strings.ContainsAny(line, "\r\n"):
		return credential.Secret{}, errors.New("standard input is invalid: must be one line with a key or session token")
	}
	return credential.NewSecret(line), nil
}

// runExplain sends the request, prints the explanation and returns the exit code.
func (c *cli) runExplain(ctx context.Context, client *explain.Client, plaintext credential.Secret) int {
	flags := c.explained
	request := flags.request
	if request.Method == "" {
		request.Method = "GET"
	}
	if len(flags.scopes) > 0 || flags.principal != "" {
		scope := strings.Join(flags.scopes, " ")
		request.Requirement = &explain.Requirement{Scope: &scope}
		if flags.principal != "" {
			request.Requirement.Principal = &flags.principal
		}
	}
	if !plaintext.Empty() {
		kind := credential.Key
		if flags.kind == "session" || flags.kind == "" && strings.HasPrefix(plaintext.Reveal(), credential.SessionPrefix) {
			kind = credential.Session
		}
		request.Credential = explain.NewCredential(kind, plaintext)
	}
	e, text, err := client.Explain(ctx, request)
	if err != nil {
		c.con.say("%s", visible(err.Error()))
		return exitFailed
	}
	s := session{con: c.con}
	if c.opts.output == "json" {
		return s.print(indented(string(text)))
	}
	return s.print(explanationTable(e).String())
}
