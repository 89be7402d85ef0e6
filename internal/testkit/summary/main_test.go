package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSummary(t *testing.T) {
	t.Parallel()
	const pass = `{"Action":"pass","Package":"p","Test":"TestA"}
`
	tests := []struct {
		name   string
		events string
		strict bool
		want   string
		ok     bool
	}{
		{
			name: "a package that passed ends with the runner's own line",
			events: `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
` + pass + `{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`,
			want: "ok  \tp\t0.1s\n\n1 passed, 0 failed, 0 skipped\n",
			ok:   true,
		},
		{
			name: "a failed test shows its output",
			events: pass + `{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:3: wrong\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`,
			want: "    b_test.go:3: wrong\nFAIL\tp\t0.1s\n\nfailed: p TestB\n1 passed, 1 failed, 0 skipped\n",
		},
		{
			name: "a package that does not compile shows why",
			events: pass + `{"ImportPath":"q [q.test]","Action":"build-output","Output":"q.go:1: undefined: x\n"}
{"ImportPath":"q [q.test]","Action":"build-fail"}
{"Action":"output","Package":"q","Output":"FAIL\tq [build failed]\n"}
{"Action":"fail","Package":"q","FailedBuild":"q [q.test]"}
`,
			want: "q.go:1: undefined: x\nFAIL\tq [build failed]\n\nfailed: q\n1 passed, 1 failed, 0 skipped\n",
		},
		{
			name:   "a skipped test gives its reason",
			events: pass + skip("skipped: no PostgreSQL: not in PATH"),
			want:   "\nskipped: p TestC: no PostgreSQL: not in PATH\n1 passed, 0 failed, 1 skipped\n",
			ok:     true,
		},
		{
			name:   "strict excuses what the machine cannot have",
			events: pass + skip("skipped: this machine cannot: mounting needs root"),
			strict: true,
			want:   "\nskipped: p TestC: this machine cannot: mounting needs root\n1 passed, 0 failed, 1 skipped\n",
			ok:     true,
		},
		{
			name:   "strict excuses what an adapter does not promise",
			events: pass + skip("not in this adapter's contract: a log has every message once"),
			strict: true,
			want:   "\nskipped: p TestC: not in this adapter's contract: a log has every message once\n1 passed, 0 failed, 1 skipped\n",
			ok:     true,
		},
		{
			name:   "strict refuses any other reason",
			events: pass + skip("too slow"),
			strict: true,
			want: "\nskipped: p TestC: too slow\n1 passed, 0 failed, 1 skipped\n" +
				"1 tests were skipped that this machine can run\n",
		},
		{
			name:   "what is not an event is shown",
			events: "go: no such tool\n",
			want:   "go: no such tool\n\n0 passed, 0 failed, 0 skipped\nno test ran\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			s := summary{out: &out, output: map[test][]string{}, building: map[string][]string{}}
			if err := s.read(strings.NewReader(tt.events)); err != nil {
				t.Fatal(err)
			}
			if ok := s.conclude(tt.strict); ok != tt.ok {
				t.Errorf("all is well: %v, want %v", ok, tt.ok)
			}
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func skip(reason string) string {
	return `{"Action":"output","Package":"p","Test":"TestC","Output":"=== RUN   TestC\n"}
{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:9: ` + reason + `\n"}
{"Action":"output","Package":"p","Test":"TestC","Output":"--- SKIP: TestC (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestC"}
`
}
