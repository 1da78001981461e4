package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

// session is the execution of one command.
type session struct {
	client *operatorapi.Client
	opts   options
	con    console
}

// connect makes the client. Its errors are usage errors; it sends nothing.
func connect(opts options, con console) (*session, error) {
	token, err := tokenOf(opts.tokenFile, con)
	if err != nil {
		return nil, fmt.Errorf("read token file: %w", err)
	}
	conf, err := certificates(opts, con)
	if err != nil {
		return nil, err
	}
	client, err := operatorapi.NewTLS(opts.url, conf, func() (credential.Secret, error) { return token(), nil })
	if err != nil {
		return nil, fmt.Errorf("--url or KEYCTL_URL: %w", err) // the URL may hold a password
	}
	return &session{client: client, opts: opts, con: con}, nil
}

// tokenOf reads the token. A file that is not regular, such as a pipe, can be read only once.
func tokenOf(path string, con console) (func() credential.Secret, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		token, err := secretfile.ReadOnce(path)
		return func() credential.Secret { return token }, err
	}
	file, err := secretfile.Open(path, con.warnings())
	if err != nil {
		return nil, err
	}
	return file.Get, nil
}

// certificates returns the TLS configuration, or nil without such flags.
func certificates(opts options, con console) (*tls.Config, error) {
	switch {
	case (opts.certFile == "") != (opts.keyFile == ""):
		return nil, errors.New("--cert-file (or KEYCTL_CERT_FILE) and --key-file (or KEYCTL_KEY_FILE) require each other")
	case opts.caFile == "" && opts.certFile == "":
		return nil, nil
	}
	conf, err := secretfile.ReadClient(opts.caFile, opts.certFile, opts.keyFile, con.warnings())
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	return conf, nil
}

// do executes the command and returns the exit code.
func (s *session) do(ctx context.Context, cmd *command) int {
	switch {
	case s.opts.file != "":
		return s.importFile(ctx)
	case cmd.list == nil:
		return s.send(ctx, cmd)
	}
	list, err := cmd.list(ctx, s.client, s.opts)
	if err != nil {
		s.explain(err, cmd)
		return exitFailed
	}
	if s.opts.output == "json" {
		return s.print(indented(list.json.Reveal()))
	}
	return s.print(list.table.String())
}

func (s *session) send(ctx context.Context, cmd *command) int {
	var answer operatorapi.Answer
	requests, began := cmd.requests(s.opts), time.Now()
	for i, request := range requests {
		// Revisions increase, so when that of the last request is effective, all are.
		if i == len(requests)-1 && s.opts.wait {
			request = request.Waiting(min(s.opts.waits, firstWait))
		}
		var err error
		if answer, err = s.client.Do(ctx, request); err != nil {
			s.explain(err, cmd)
			if i > 0 {
				s.con.say("done before the failure: %s for %s", cmd.name, visible(strings.Join(s.opts.scopes[:i], ", ")))
			}
			return exitFailed
		}
	}
	if s.opts.output == "json" {
		return s.finishJSON(ctx, answer, began)
	}
	return s.finishTable(ctx, answer, began)
}

func (s *session) finishJSON(ctx context.Context, answer operatorapi.Answer, began time.Time) int {
	code := exitDone
	if s.opts.wait {
		answer, code = s.await(ctx, answer, began)
	}
	if s.print(indented(answer.JSON.Reveal())) != exitDone {
		s.unprinted(answer)
		return exitFailed
	}
	return code
}

func (s *session) finishTable(ctx context.Context, answer operatorapi.Answer, began time.Time) int {
	secret, table := answer.Plaintext, answerTable(answer).String()
	if !answer.Token.Empty() {
		secret = answer.Token
	}
	if secret.Empty() {
		if s.print(table) != exitDone {
			return exitFailed
		}
	} else {
		if s.print(secret.Reveal()+"\n") != exitDone {
			s.unprinted(answer)
			return exitFailed
		}
		_, _ = fmt.Fprint(s.con.err, table)
		s.con.say("store it now: it is shown only once, and the key API keeps only its digest")
	}
	s.noteChain(answer)
	switch {
	case answer.Change == nil:
		return exitDone
	case s.opts.wait:
		_, code := s.await(ctx, answer, began)
		return code
	}
	s.con.say("%s", outcome(*answer.Change))
	return exitDone
}

// noteChain notes that a change of a replaced key does not change its successor.
func (s *session) noteChain(a operatorapi.Answer) {
	if a.Key == nil || a.Key.ReplacedBy == nil || a.Change == nil || a.Revoked != nil {
		return
	}
	id, next := cell(a.Key.ID), cell(*a.Key.ReplacedBy)
	if a.Key.State == "revoked" {
		s.con.say("%s has been replaced by %s, which is not revoked: `keyctl key revoke -chain -id %s` revokes both", id, next, id)
		return
	}
	s.con.say("%s has been replaced by %s, which is not changed", id, next)
}

// print writes to standard output and returns the exit code.
func (s *session) print(text string) int {
	if _, err := fmt.Fprint(s.con.out, text); err != nil {
		if !errors.Is(err, syscall.EPIPE) { // the reader does not want the rest
			s.con.say("write standard output: %v", err)
		}
		return exitFailed
	}
	return exitDone
}

// unprinted reports a secret that was made but not printed.
func (s *session) unprinted(a operatorapi.Answer) {
	switch {
	case !a.Plaintext.Empty():
		s.con.say("the key %s was made but could not be printed: revoke it with `keyctl key revoke -id %s`", a.Key.ID, a.Key.ID)
	case !a.Token.Empty():
		s.con.say("the session %s was made but could not be printed: end it with `keyctl session end -id %s`", a.Session.ID, a.Session.ID)
	}
}

// explain reports why a request failed, and whether its outcome is unknown.
func (s *session) explain(err error, cmd *command) {
	s.con.say("%s", s.reason(err))
	if failure, ok := errors.AsType[*operatorapi.Error](err); ok && failure.OutcomeUnknown {
		s.con.say("the outcome is unknown: the change may have been made; %s", cmp.Or(cmd.ifUnknown, "the command can be repeated without harm"))
	}
}

func (s *session) reason(err error) string {
	failure, ok := errors.AsType[*operatorapi.Error](err)
	if !ok {
		return visible(err.Error())
	}
	text := visible(failure.Error())
	switch {
	case failure.Status == http.StatusUnauthorized:
		return fmt.Sprintf("the key API at %s rejects the token in %s: %s", s.opts.url, s.opts.tokenFile, text)
	case failure.Code == "":
		return fmt.Sprintf("%s: %s", s.opts.url, text)
	}
	return text
}

// indented formats the API's JSON and keeps the form of all values.
func indented(text string) string {
	value := jsontext.Value(text)
	if err := value.Indent(jsontext.WithIndent("  ")); err != nil {
		return text + "\n"
	}
	return string(value) + "\n"
}
