package problem_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/problem"
)

type body struct {
	Name  string         `json:"name"`
	Count int64          `json:"count"`
	Deep  *inner         `json:"deep"`
	List  []inner        `json:"list"`
	Raw   jsontext.Value `json:"raw"`
}

type inner struct {
	A int `json:"a"`
}

func TestDecode_TakesWhatIsRight(t *testing.T) {
	t.Parallel()
	var got body
	mistakes, p := problem.Decode([]byte(` {"name":"x","count":2,"deep":{"a":3},"list":[{"a":4}],"raw":[1]} `), &got)
	if p != nil || mistakes.Problem() != nil {
		t.Fatalf("refused: %v %v", p, mistakes.Problem())
	}
	want := body{Name: "x", Count: 2, Deep: &inner{A: 3}, List: []inner{{A: 4}}, Raw: jsontext.Value("[1]")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestDecode_RefusesWhatIsNotStrict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body string
		code problem.Code
		at   []string // pointers
	}{
		"duplicate":          {`{"name":"a","name":"b"}`, problem.MalformedJSON, []string{"/name"}},
		"duplicate inside":   {`{"deep":{"a":1,"a":1}}`, problem.MalformedJSON, []string{"/deep/a"}},
		"duplicate escaped":  {`{"name":"a","n\u0061me":"b"}`, problem.MalformedJSON, []string{"/name"}},
		"duplicate unknown":  {`{"x":{"y":1,"y":2}}`, problem.MalformedJSON, []string{"/x/y"}},
		"trailing":           {`{"name":"a"}{}`, problem.MalformedJSON, []string{""}},
		"trailing garbage":   {`{"name":"a"}x`, problem.MalformedJSON, []string{""}},
		"empty":              {``, problem.MalformedJSON, []string{""}},
		"cut":                {`{"name":"a`, problem.MalformedJSON, []string{"/name"}},
		"utf-8":              {"{\"name\":\"\xff\"}", problem.MalformedJSON, []string{"/name"}},
		"lone surrogate":     {`{"name":"\ud800"}`, problem.MalformedJSON, []string{"/name"}},
		"deep":               {`{"raw":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, problem.MalformedJSON, []string{""}},
		"byte order mark":    {"\ufeff{}", problem.MalformedJSON, []string{""}},
		"comment":            {`{/**/}`, problem.MalformedJSON, []string{""}},
		"case variant":       {`{"Name":"a"}`, problem.InvalidBody, []string{"/Name"}},
		"not an object":      {`[]`, problem.InvalidBody, []string{""}},
		"number with a dot":  {`{"count":2.0}`, problem.InvalidBody, []string{"/count"}},
		"number with an exp": {`{"count":1e2}`, problem.InvalidBody, []string{"/count"}},
		"number too large":   {`{"count":9223372036854775808}`, problem.InvalidBody, []string{"/count"}},
		"several": {
			`{"name":1,"list":[{"a":1},{"a":"x","b/c":0}],"more":{},"deep":{"a":[]}}`, problem.InvalidBody,
			[]string{"/name", "/list/1/a", "/list/1/b~1c", "/more", "/deep/a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var into body
			mistakes, p := problem.Decode([]byte(c.body), &into)
			if p == nil {
				p = mistakes.Problem()
			}
			if p == nil {
				t.Fatalf("taken as %+v", into)
			}
			var at []string
			for _, m := range p.Errors {
				at = append(at, m.Pointer)
			}
			if p.Code != c.code || p.Status != http.StatusBadRequest || !cmp.Equal(c.at, at) {
				t.Fatalf("got %s %d at %q: %s; want %s at %q", p.Code, p.Status, at, p.Detail, c.code, c.at)
			}
		})
	}
}

func TestDecode_TellsNothingOfWhatWasSent(t *testing.T) {
	t.Parallel()
	for _, in := range []string{`{"name":"\ud800CANARY"}`, "{\"name\":\"CANARY\xff\"}", `{"name":"\xCANARY"}`, `{"name":CANARY}`, `{"name":"a","name":"CANARY"}`} {
		_, p := problem.Decode([]byte(in), &body{})
		if p == nil || strings.Contains(fmt.Sprint(p.Detail, p.Errors), "CAN") {
			t.Errorf("%q: %+v", in, p)
		}
	}
}

func TestDecode_KeepsWhatIsRightBesideMistakes(t *testing.T) {
	t.Parallel()
	var got body
	mistakes, _ := problem.Decode([]byte(`{"name":"x","count":"y","list":[{"a":4},null]}`), &got)
	mistakes.Add("/count", problem.MistakeRange, "not said twice of one place")
	mistakes.Add("/name", problem.MistakeFormat, "said")
	want := body{Name: "x", List: []inner{{A: 4}, {}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if p := mistakes.Problem(); len(p.Errors) != 2 || p.Errors[0].Code != problem.MistakeType {
		t.Fatalf("mistakes: %+v", p.Errors)
	}
}

func TestDecode_AllowsDepth32(t *testing.T) {
	t.Parallel()
	var into body
	if _, p := problem.Decode([]byte(`{"raw":`+strings.Repeat("[", 31)+`"[[["`+strings.Repeat("]", 31)+`}`), &into); p != nil {
		t.Fatal(p)
	}
}

func TestDecode_BoundsMistakes(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range 200 {
		fmt.Fprintf(&many, `,"x%d":0`, i)
	}
	var into body
	mistakes, _ := problem.Decode([]byte(`{"count":1`+many.String()+`}`), &into)
	if p := mistakes.Problem(); len(p.Errors) != 100 || !strings.Contains(p.Detail, "more than 100") {
		t.Fatalf("%d mistakes: %s", len(p.Errors), p.Detail)
	}
}

func TestReadBody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		contentType string
		length      int64
		status      int
	}{
		"json":             {"application/json", 10, 0},
		"charset":          {"application/json; charset=UTF-8", 10, 0},
		"absent":           {"", 10, 0},
		"unknown length":   {"", -1, 0},
		"form":             {"application/x-www-form-urlencoded", 10, 415},
		"other charset":    {"application/json; charset=latin1", 10, 415},
		"nonsense":         {"/", 10, 415},
		"larger":           {"", 17, 413},
		"longer than told": {"", -2, 413},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			size := map[int64]int{-1: 16, -2: 17}[c.length]
			if size == 0 {
				size = int(c.length)
			}
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat(" ", size)))
			r.ContentLength = max(c.length, -1)
			if c.contentType != "" {
				r.Header.Set("Content-Type", c.contentType)
			}
			got, p := problem.ReadBody(httptest.NewRecorder(), r, 16)
			switch {
			case p == nil && (c.status != 0 || len(got) != size):
				t.Fatalf("read %d bytes, want status %d", len(got), c.status)
			case p != nil && p.Status != c.status:
				t.Fatalf("got %v, want status %d", p, c.status)
			}
		})
	}
}

func TestReadBody_CutShort(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
	r.ContentLength = 3
	if _, p := problem.ReadBody(httptest.NewRecorder(), r, 16); p == nil || p.Code != problem.BadRequest {
		t.Fatalf("got %v", p)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	problem.Write(w, nil, problem.New(problem.Overloaded, "later").After(1100*time.Millisecond))
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"type": "https://mainstay.dev/problems/overloaded", "title": "The server has as much work as it takes",
		"status": 503.0, "code": "overloaded", "detail": "later", "retry_after": 2.0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	h := w.Header()
	if w.Code != 503 || h.Get("Content-Type") != "application/problem+json" || h.Get("Retry-After") != "2" {
		t.Fatalf("%d %v", w.Code, h)
	}
}

func TestCodes_AreDescribedAndDistinct(t *testing.T) {
	t.Parallel()
	seen := map[string]problem.Code{}
	for _, c := range problem.Codes() {
		if other, twice := seen[c.Title()]; twice {
			t.Errorf("%s and %s have one title", c, other)
		}
		seen[c.Title()] = c
		if c.Status() < 400 || strings.Contains(c.Type(), "_") {
			t.Errorf("%s: %d %s", c, c.Status(), c.Type())
		}
	}
}

func TestMountFallback(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /things/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })
	mux.HandleFunc("PUT /things/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })
	problem.MountFallback(mux)
	for name, c := range map[string]struct {
		method, path string
		status       int
		allow        string
	}{
		"known":        {"GET", "/things/1", 200, ""},
		"head":         {"HEAD", "/things/1", 200, ""},
		"other method": {"DELETE", "/things/1", 405, "GET, HEAD, PUT"},
		"other path":   {"GET", "/nothing", 404, ""},
		"root":         {"GET", "/", 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
			if w.Code != c.status || w.Header().Get("Allow") != c.allow {
				t.Fatalf("got %d, Allow %q", w.Code, w.Header().Get("Allow"))
			}
			if c.status >= 400 && w.Header().Get("Content-Type") != problem.ContentType {
				t.Fatalf("not a problem: %s", w.Body)
			}
		})
	}
}
