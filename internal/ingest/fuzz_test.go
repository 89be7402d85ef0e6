package ingest_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/ingest"
)

func TestParseKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 255)
	for name, c := range map[string]struct {
		values []string
		want   string
		err    error
	}{
		"bare":            {[]string{"k-1"}, "k-1", nil},
		"quoted":          {[]string{`"k-1"`}, "k-1", nil},
		"escapes":         {[]string{`"a\"b\\c"`}, `a"b\c`, nil},
		"quotes inside":   {[]string{`a"b`}, `a"b`, nil},
		"space around":    {[]string{" k "}, "k", nil},
		"longest":         {[]string{long}, long, nil},
		"longest quoted":  {[]string{`"` + long + `"`}, long, nil},
		"none":            {nil, "", ingest.ErrKeyMissing},
		"empty":           {[]string{""}, "", ingest.ErrKeyMissing},
		"blank":           {[]string{"  "}, "", ingest.ErrKeyMissing},
		"empty quoted":    {[]string{`""`}, "", ingest.ErrKeyInvalid},
		"twice":           {[]string{"a", "a"}, "", ingest.ErrKeyInvalid},
		"too long":        {[]string{long + "k"}, "", ingest.ErrKeyInvalid},
		"space within":    {[]string{"a b"}, "", ingest.ErrKeyInvalid},
		"control":         {[]string{"a\x01"}, "", ingest.ErrKeyInvalid},
		"not ascii":       {[]string{"ä"}, "", ingest.ErrKeyInvalid},
		"open quote":      {[]string{`"a`}, "", ingest.ErrKeyInvalid},
		"only a quote":    {[]string{`"`}, "", ingest.ErrKeyInvalid},
		"text behind":     {[]string{`"a"b`}, "", ingest.ErrKeyInvalid},
		"parameters":      {[]string{`"a";b=1`}, "", ingest.ErrKeyInvalid},
		"other escape":    {[]string{`"a\n"`}, "", ingest.ErrKeyInvalid},
		"escape at end":   {[]string{`"a\`}, "", ingest.ErrKeyInvalid},
		"escaped closing": {[]string{`"a\"`}, "", ingest.ErrKeyInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := ingest.ParseKey(c.values); got != c.want || err != c.err { //nolint:errorlint // sentinels, unwrapped
				t.Fatalf("got %q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{"k", `"k"`, `"a\"b"`, `"`, " ", "ä"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		key, err := ingest.ParseKey([]string{raw})
		if err != nil {
			return
		}
		if len(key) < 1 || len(key) > 255 {
			t.Fatalf("%q gave a key of %d bytes", raw, len(key))
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		if again, err := ingest.ParseKey([]string{quoted}); err != nil || again != key {
			t.Fatalf("%q gave %q, which in quotes is %q, %v", raw, key, again, err)
		}
	})
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		same  []string
		other []string
	}{
		"whitespace and order": {[]string{`{"a":1,"b":[1,2]}`, " { \"b\" : [ 1 , 2 ] ,\n \"a\":1}"}, []string{`{"a":1,"b":[2,1]}`}},
		"escapes":              {[]string{`"aé/"`, `"\u0061\u00e9\/"`}, []string{`"aè/"`, `"a\\u00e9/"`}},
		"numbers":              {[]string{`1200`, `12e2`, `1.2E+3`, `1200.00`, `12000e-1`}, []string{`120`, `-1200`, `1200.01`, `"1200"`}},
		"fractions":            {[]string{`0.5`, `5e-1`, `0.50`}, []string{`5`, `0.05`}},
		"zero":                 {[]string{`0`, `-0`, `0.0`, `0e9`, `-0.0E-7`}, []string{`1`, `null`, `false`}},
		"beyond floats":        {[]string{`9007199254740993`, `9007199254740993.0`}, []string{`9007199254740992`}},
		"enormous":             {[]string{`1e400`, `10e399`}, []string{`1e401`, `1e99999999999999999999`}},
		"members":              {[]string{`{"a":null}`}, []string{`{}`, `{"A":null}`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := fingerprint(t, c.same[0])
			for _, s := range c.same {
				if fingerprint(t, s) != want {
					t.Errorf("%s differs from %s", s, c.same[0])
				}
			}
			for _, s := range c.other {
				if fingerprint(t, s) == want {
					t.Errorf("%s is taken for %s", s, c.same[0])
				}
			}
		})
	}
}

func TestFingerprint_CoversMethodAndPath(t *testing.T) {
	t.Parallel()
	seen := map[[32]byte]bool{}
	for _, c := range [][2]string{{"POST", "/a"}, {"PUT", "/a"}, {"POST", "/b"}, {"POST/", "a"}} {
		f, err := ingest.Fingerprint(c[0], c[1], []byte(`{}`))
		if err != nil || seen[f] {
			t.Fatalf("%v: %v, seen before: %v", c, err, seen[f])
		}
		seen[f] = true
	}
}

func TestFingerprint_RefusesWhatIsNotStrict(t *testing.T) {
	t.Parallel()
	for _, body := range []string{``, `{"a":1,"a":1}`, `{}{}`, "\"\xff\"", `01`} {
		if _, err := ingest.Fingerprint("POST", "/", []byte(body)); err == nil {
			t.Errorf("%q was taken", body)
		}
	}
}

func fingerprint(t *testing.T, body string) [32]byte {
	t.Helper()
	f, err := ingest.Fingerprint("POST", "/", []byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return f
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{"b":1.50,"a":[true,null,"x\u0041"]}`, `-0`, `1e-7`, `[[]]`, `"\ud83d\ude00"`, `{"":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		once, err := ingest.Canonical(body)
		if !bytes.Equal(before, body) {
			t.Fatalf("%q was changed", before)
		}
		if err != nil {
			return
		}
		twice, err := ingest.Canonical(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%q became %q, then %q, %v", body, once, twice, err)
		}
		spaced := append(append([]byte("\n\t "), body...), ' ')
		if again, err := ingest.Canonical(spaced); err != nil || !bytes.Equal(once, again) {
			t.Fatalf("%q with space became %q, not %q, %v", body, again, once, err)
		}
	})
}
