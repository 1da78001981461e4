package credential_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const canary = "phk_CANARYcanaryCANARYcanaryCANARY0123456"

// The cases include unexported fields, for which fmt calls no method.
func TestSecretIsRedacted(t *testing.T) {
	secret := credential.NewSecret(canary)
	type inner struct{ hidden credential.Secret }
	values := map[string]any{
		"secret": secret, "pointer": &secret, "unexported field": inner{secret}, "pointer to it": &inner{secret},
		"slice": []credential.Secret{secret}, "map": map[string]credential.Secret{"k": secret},
		"error": fmt.Errorf("token %v", secret), "joined": errors.Join(fmt.Errorf("%s", secret)),
	}
	for name, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v"} {
			args := []any{v}
			if strings.Count(verb, "%") == 2 {
				args = append(args, v)
			}
			if out := fmt.Sprintf(verb, args...); strings.Contains(out, "CANARY") || strings.Contains(out, fmt.Sprintf("%x", canary)[:16]) {
				t.Errorf("%s under %s: %s", name, verb, out)
			}
		}
		if out, err := json.Marshal(v); err == nil && strings.Contains(string(out), "CANARY") {
			t.Errorf("%s as JSON: %s", name, out)
		}
	}

	core, logs := observer.New(zapcore.DebugLevel)
	log := zap.New(core)
	log.Info("m", zap.Any("a", secret), zap.Stringer("s", secret), zap.Reflect("r", values["slice"]), zap.Any("in", values["unexported field"]))
	for _, entry := range logs.All() {
		encoded, err := zapcore.NewJSONEncoder(zapcore.EncoderConfig{}).EncodeEntry(entry.Entry, entry.Context)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(encoded.String(), "CANARY") {
			t.Errorf("zap: %s", encoded)
		}
	}
	if secret.Reveal() != canary {
		t.Error("Reveal does not return the plaintext")
	}
	var zero credential.Secret
	if !zero.Empty() || zero.Reveal() != "" {
		t.Error("the zero secret is not empty")
	}
}

func TestDigestFormatsShortAndParsesStrictly(t *testing.T) {
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, appendix B.1
	d := credential.NewSecret("abc").Digest()
	if d.Hex() != abc {
		t.Fatal(d.Hex())
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if out := fmt.Sprintf(verb, d); len(out) > 16 {
			t.Errorf("%s shows %s", verb, out)
		}
	}
	if out, err := json.Marshal(map[string]any{"d": d}); err != nil || len(out) > 32 {
		t.Errorf("JSON: %s, %v", out, err)
	}
	if again, err := credential.ParseDigest(abc); err != nil || again != d {
		t.Error(err)
	}
	for _, bad := range []string{"", abc[:63], abc + "0", strings.ToUpper(abc), "g" + abc[1:], " " + abc[1:]} {
		if _, err := credential.ParseDigest(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestShapeOf(t *testing.T) {
	for range 100 {
		key, session := credential.Mint(credential.Key), credential.Mint(credential.Session)
		if credential.ShapeOf(key.Reveal()) != credential.KeyShape || credential.ShapeOf(session.Reveal()) != credential.SessionShape {
			t.Fatal("a minted credential has another shape")
		}
		if hint := credential.Hint(key); len(hint) != 8 || !strings.HasPrefix(key.Reveal(), hint) {
			t.Fatalf("hint %q", hint)
		}
	}
	// CRC-32 of phk_ and 32 zeros, computed with Python's zlib.crc32 and written in base62.
	zeros := "phk_" + strings.Repeat("0", 32)
	for _, tt := range []struct {
		value string
		want  credential.Shape
	}{
		{zeros + zerosSum, credential.KeyShape},
		{zeros + "000000", credential.Malformed},
		{zeros, credential.Malformed},
		{"phk_", credential.Malformed},
		{zeros + zerosSum + "0", credential.Malformed},
		{"phs_" + zeros[4:] + zerosSum, credential.Malformed},
		{"phk_" + strings.Repeat("-", 32) + zerosSum, credential.Malformed},
		{"PHK_" + zeros[4:] + zerosSum, credential.Foreign},
		{"sk-live-something", credential.Foreign},
		{"", credential.Foreign},
	} {
		if got := credential.ShapeOf(tt.value); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.value, got, tt.want)
		}
	}
}

func TestScopes(t *testing.T) {
	s := credential.NewScopes("b", "a", "", "b")
	if s.String() != "a b" || s.Len() != 2 || !s.Has("a") || s.Has("") || s.Has("c") {
		t.Errorf("%v", s)
	}
	if got := s.With(credential.NewScopes("c", "a")).String(); got != "a b c" {
		t.Error(got)
	}
	if got := s.Without("a").String(); got != "b" || s.String() != "a b" {
		t.Error(got, s)
	}
	if list := s.List(); len(list) != 2 {
		t.Error(list)
	} else if list[0] = "x"; s.Has("x") {
		t.Error("List returns the set's own slice")
	}
	var none credential.Scopes
	if none.Has("a") || none.String() != "" || none.List() == nil || !none.Equal(credential.NewScopes()) {
		t.Error("the zero set")
	}
	for name, ok := range map[string]bool{
		"chat:companion": true, "a": true, "": false, "a b": false, `a"b`: false, `a\b`: false, "ä": false, "a\n": false,
		strings.Repeat("a", 64): true, strings.Repeat("a", 65): false,
	} {
		if credential.ValidScope(name) != ok {
			t.Errorf("%q: %v", name, !ok)
		}
	}
}

func TestContainsPlaintext(t *testing.T) {
	key, session := credential.Mint(credential.Key).Reveal(), credential.Mint(credential.Session).Reveal()
	wrongSum := key[:len(key)-1] + "-"
	for text, want := range map[string]bool{
		key: true, "phk_" + key: true, `{"label":"` + session + `"}`: true, key[:len(key)-6] + "000000": true, key + "x": true,
		"": false, key[:len(key)-1]: false, wrongSum: false, "phx_" + key[4:]: false, "phk_ " + key[4:]: false,
	} {
		if got := credential.ContainsPlaintext(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestReservedHeaders(t *testing.T) {
	for name, want := range map[string]bool{
		"x-phantom-account-id": true, "x_phantom_account_id": true, "X-Phantom_Account-Id": true, "X_PHANTOM-x": true,
		"x-phantom-": true, "x_phantom_": true, "x-phantom": false, "x-phantomx": false, "xx-phantom-a": false, "": false,
		"x.phantom.a": false, "x-ph\u00e4ntom-": false,
	} {
		if credential.IsReserved(name) != want || credential.IsReserved([]byte(name)) != want {
			t.Errorf("%q: want %v", name, want)
		}
	}
	for name, want := range map[string]string{
		credential.AccountHeader: "x-phantom-account-id", credential.PrincipalHeader: "x-phantom-principal",
		credential.CredentialHeader: "x-phantom-credential-id", credential.ScopesHeader: "x-phantom-scopes",
	} {
		if name != want {
			t.Errorf("%q, want %q", name, want)
		}
	}
}

// FuzzShapeOf tests that only values that Mint could have made have the shape of a key or session.
func FuzzShapeOf(f *testing.F) {
	f.Add("phk_")
	f.Add(credential.Mint(credential.Key).Reveal())
	f.Add("phs_" + strings.Repeat("0", 38))
	f.Fuzz(func(t *testing.T, s string) {
		switch credential.ShapeOf(s) {
		case credential.KeyShape, credential.SessionShape:
			if len(s) != credential.TokenLen {
				t.Fatalf("%q", s)
			}
			// The checksum detects every change of one character.
			for i := 4; i < len(s); i++ {
				other := []byte(s)
				other[i] ^= 1
				if shape := credential.ShapeOf(string(other)); shape != credential.Malformed {
					t.Fatalf("%q and %q are both %d", s, other, shape)
				}
			}
		case credential.Foreign:
			if strings.HasPrefix(s, "phk_") || strings.HasPrefix(s, "phs_") {
				t.Fatalf("%q is foreign", s)
			}
		case credential.Malformed:
		}
	})
}

const zerosSum = "02ghCq"

// The contract's checksum is CRC-32 (IEEE).
func TestChecksumIsCRC32(t *testing.T) {
	for range 100 {
		key := credential.Mint(credential.Key).Reveal()
		sum, number := crc32.ChecksumIEEE([]byte(key[:len(key)-6])), uint64(0)
		for _, c := range []byte(key[len(key)-6:]) {
			number = number*62 + uint64(strings.IndexByte("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", c))
		}
		if number != uint64(sum) {
			t.Fatalf("the checksum of a minted key is %d, want %d", number, sum)
		}
	}
}
