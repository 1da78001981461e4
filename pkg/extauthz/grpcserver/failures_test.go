package grpcserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
)

// panicking is a Source that panics, with a value that holds a secret or with a runtime error.
type panicking struct{ byRuntime bool }

func (p panicking) Cached(credential.Digest) (rec credential.Record, found, known bool) {
	return credential.Record{}, false, false
}

func (p panicking) Lookup(_ context.Context, d credential.Digest) (credential.Record, bool, error) {
	if p.byRuntime {
		var none *credential.Record
		return *none, true, nil
	}
	panic("with " + key.Reveal() + " and " + d.Hex())
}

// panickingUsage makes the rendering of an answer panic.
type panickingUsage struct{}

func (panickingUsage) Used(credential.Digest, bool, time.Time) { panic(key.Reveal()) }

// newMetrics registers the checks' metrics and their counter of panics.
func newMetrics(reg *prometheus.Registry) *extauthz.Metrics {
	panics := prometheus.NewCounter(prometheus.CounterOpts{Name: "phantom_authz_panics_total"})
	reg.MustRegister(panics)
	return extauthz.NewMetrics(reg, panics)
}

// value returns a counter. Labels are the values of all its labels in the order of their names.
func value(t *testing.T, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if family.GetName() == name && fmt.Sprint(got) == fmt.Sprint(labels) {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no series %s%v", name, labels)
	return 0
}

// A panic is answered and counted. The sampled log has the stack and no secret.
func TestPanicIsAnsweredUnavailable(t *testing.T) {
	for name, src := range map[string]panicking{"of the program": {}, "of the runtime": {byRuntime: true}} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			reg := prometheus.NewRegistry()
			_, conn := serveRules(t, src, &extauthz.Rules{}, reg, zap.New(core))
			const times = 50
			for range times {
				resp, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), message(map[string]string{"scope": ""}, raw("authorization", "Bearer "+key.Reveal())))
				if err != nil || resp.GetStatus().GetCode() != 14 || resp.GetDeniedResponse().GetStatus().GetCode() != 503 ||
					resp.GetDynamicMetadata().GetFields()["reason"].GetStringValue() != "unavailable" ||
					resp.GetDeniedResponse().GetBody() != `{"error":"SERVICE_UNAVAILABLE","message":"Authorization is temporarily unavailable","statusCode":503}` {
					t.Fatalf("%v, %v", resp, err)
				}
			}
			if panics, checks := value(t, reg, "phantom_authz_panics_total"), value(t, reg, "phantom_authz_checks_total", "deny", "unavailable", "false"); panics != times || checks != times {
				t.Errorf("counted %v panics and %v checks", panics, checks)
			}
			if logs.Len() == 0 || logs.Len() > 5 {
				t.Fatalf("%d lines", logs.Len())
			}
			line, err := json.Marshal(logs.All()[0].ContextMap())
			if err != nil {
				t.Fatal(err)
			}
			if text := string(line); !strings.Contains(text, "failures_test.go:") || strings.Contains(text, key.Reveal()) || strings.Contains(text, key.Digest().Hex()) {
				t.Errorf("logged: %s", text)
			}
		})
	}
}

func TestPanicInShadowModeAllows(t *testing.T) {
	_, conn := serveRules(t, panicking{}, &extauthz.Rules{Shadow: true}, prometheus.NewRegistry(), zap.NewNop())
	resp, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), message(nil, raw("authorization", "Bearer "+key.Reveal())))
	if fields := resp.GetDynamicMetadata().GetFields(); err != nil || resp.GetStatus().GetCode() != 0 || resp.GetOkResponse() == nil ||
		fields["shadow_decision"].GetStringValue() != "deny" || fields["reason"].GetStringValue() != "unavailable" {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestPanicOfTheAnswerDenies(t *testing.T) {
	for _, shadow := range []bool{false, true} {
		reg := prometheus.NewRegistry()
		checker := extauthz.NewChecker(newSource(), panickingUsage{}, &extauthz.Rules{Shadow: shadow}, newMetrics(reg))
		msg, err := proto.Marshal(message(map[string]string{"scope": ""}, raw("authorization", "Bearer "+key.Reveal())))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := grpcserver.Direct(checker)(t.Context(), msg)
		resp := new(authv3.CheckResponse)
		if err := errors.Join(err, proto.Unmarshal(answer.Materialize(), resp)); err != nil || resp.GetStatus().GetCode() != 14 || resp.GetDeniedResponse().GetStatus().GetCode() != 503 {
			t.Errorf("%v, %v", resp, err)
		}
		if got := value(t, reg, "phantom_authz_panics_total"); got != 1 {
			t.Errorf("counted %v", got)
		}
	}
}

// rawMessage is a gRPC message as bytes.
type rawMessage []byte

// rawCodec sends a rawMessage and reads a CheckResponse.
type rawCodec struct{}

func (rawCodec) Name() string                       { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)      { return v.(rawMessage), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { return proto.Unmarshal(data, v.(proto.Message)) }

func checkBytes(ctx context.Context, conn *grpc.ClientConn, b []byte) (*authv3.CheckResponse, error) {
	resp := new(authv3.CheckResponse)
	err := conn.Invoke(ctx, authv3.Authorization_Check_FullMethodName, rawMessage(b), resp, grpc.ForceCodec(rawCodec{}))
	return resp, err
}

func TestInvalidMessagesAreRejectedAndCounted(t *testing.T) {
	good, err := proto.Marshal(message(map[string]string{"scope": ""}, raw("authorization", "Bearer "+key.Reveal())))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		bytes []byte
		code  codes.Code
		cause string
	}{
		{"valid", good, codes.OK, ""},
		{"truncated", good[:len(good)-1], codes.Internal, "malformed"},
		{"not a message", []byte{0xff, 0xff}, codes.Internal, "malformed"},
		{"not UTF-8", []byte{0x0a, 0x07, 0x22, 0x05, 0x12, 0x03, 0x12, 0x01, 0xff}, codes.Internal, "malformed"},
		{"128 KiB", big(128<<10, good), codes.OK, ""},
		{"more than 128 KiB", big(128<<10+1, good), codes.ResourceExhausted, "too_large"},
		{"2 MiB", big(2<<20, good), codes.ResourceExhausted, "too_large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			reg := prometheus.NewRegistry()
			server, conn := serveRules(t, newSource(), &extauthz.Rules{}, reg, zap.New(core))
			const times = 20
			for range times {
				resp, err := checkBytes(t.Context(), conn, tt.bytes)
				if status.Code(err) != tt.code || (err == nil && resp.GetStatus().GetCode() != 0) {
					t.Errorf("%v, %v", resp, err)
				}
			}
			if resp, err := checkBytes(t.Context(), conn, good); err != nil || resp.GetStatus().GetCode() != 0 {
				t.Errorf("valid after these: %v, %v", resp, err)
			}
			server.Stop(t.Context()) // grpc-go sends the error before the check returns
			for _, cause := range []string{"malformed", "too_large"} {
				want := 0.0
				if cause == tt.cause {
					want = times
				}
				if got := value(t, reg, "phantom_authz_undecodable_messages_total", cause); got != want {
					t.Errorf("counted %v as %s, want %v", got, cause, want)
				}
			}
			if lines := logs.Len(); (lines > 0) != (tt.cause != "") || lines > 5 {
				t.Errorf("%d lines", lines)
			}
		})
	}
}

// big returns a good message of that size, padded by an unknown field.
func big(size int, good []byte) []byte {
	const head = 5 // tag in two bytes, length in three
	padding := size - len(good) - head
	b := append([]byte{0xfa, 0x01, byte(padding&0x7f | 0x80), byte(padding>>7&0x7f | 0x80), byte(padding >> 14)}, make([]byte, padding)...)
	return append(b, good...)
}
