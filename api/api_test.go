package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"html/template"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/mainstay-io/mainstay/api"
	"github.com/mainstay-io/mainstay/internal/operator"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/problem"
)

var update = flag.Bool("update", false, "make openapi.json and docs.html of openapi.yaml")

type object = map[string]any

func document(t *testing.T) object {
	t.Helper()
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc object
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestGenerated_IsUpToDate(t *testing.T) {
	t.Parallel()
	doc := document(t)
	asJSON, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string][]byte{"openapi.json": append(asJSON, '\n'), "docs.html": page(t, doc)} {
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(want, got) {
			t.Errorf("%s is old (%v): run go test ./api -update", file, err)
		}
	}
}

func page(t *testing.T, doc object) []byte {
	t.Helper()
	funcs := template.FuncMap{
		"name":     path.Base,
		"problems": codesOf,
		"either":   func(kind any) string { return strings.ReplaceAll(strings.Trim(fmt.Sprint(kind), "[]"), " ", " or ") },
		"json": func(v any) (string, error) {
			b, err := json.MarshalIndent(v, "", "  ")
			return string(b), err
		},
	}
	var out bytes.Buffer
	tmpl := template.Must(template.New("docs.tmpl").Funcs(funcs).ParseFiles("docs.tmpl"))
	if err := tmpl.Execute(&out, doc); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// codesOf names the codes of problems with a status that an operation can meet.
func codesOf(status string, operation object) string {
	_, hasBody := operation["requestBody"]
	hasKey := strings.Contains(fmt.Sprint(operation["parameters"]), "Idempotency-Key")
	var codes []string
	for _, c := range problem.Codes() {
		aboutBody := c == problem.InvalidBody || c == problem.MalformedJSON
		aboutKey := c == problem.KeyMissing || c == problem.KeyInvalid
		if aboutBody && !hasBody || aboutKey && !hasKey {
			continue
		}
		if status == strconv.Itoa(c.Status()) {
			codes = append(codes, string(c))
		}
	}
	return strings.Join(codes, ", ")
}

func TestDocument_HasTheRoutes(t *testing.T) {
	t.Parallel()
	var got []string
	for p, item := range document(t)["paths"].(object) {
		for method := range item.(object) {
			if method != "parameters" {
				got = append(got, strings.ToUpper(method)+" "+p)
			}
		}
	}
	want := append(order.Routes(), operator.Routes()...)
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestDocument_HasTheFields(t *testing.T) {
	t.Parallel()
	schemas := document(t)["components"].(object)["schemas"].(object)
	described := map[string]reflect.Type{
		"Draft": reflect.TypeFor[order.Draft](), "Line": reflect.TypeFor[order.Line](),
		"Payment": reflect.TypeFor[order.Payment](), "Shipping": reflect.TypeFor[order.Shipping](),
		"Order": reflect.TypeFor[order.View](), "Reason": reflect.TypeFor[order.Reason](),
		"StockLevel": reflect.TypeFor[operator.StockLevel](), "Stock": reflect.TypeFor[operator.Stock](),
		"CarrierLimit": reflect.TypeFor[operator.CarrierLimit](), "Carrier": reflect.TypeFor[operator.Carrier](),
		"Problem": reflect.TypeFor[problem.Problem](), "Mistake": reflect.TypeFor[problem.Mistake](),
	}
	for name, schema := range schemas {
		if schema.(object)["type"] != "object" {
			continue
		}
		goType, ok := described[name]
		if !ok {
			t.Errorf("%s is described, and nothing of the code", name)
			continue
		}
		delete(described, name)
		all, required := fields(goType)
		if diff := cmp.Diff(all, sorted(schema.(object)["properties"].(object))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		var listed []string
		for _, f := range schema.(object)["required"].([]any) {
			listed = append(listed, f.(string))
		}
		slices.Sort(listed)
		if diff := cmp.Diff(required, listed); diff != "" {
			t.Errorf("%s: required: %s", name, diff)
		}
	}
	if len(described) > 0 {
		t.Errorf("not described: %v", described)
	}
}

func fields(of reflect.Type) (all, required []string) {
	for f := range of.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		all = append(all, name)
		if options == "" {
			required = append(required, name)
		}
	}
	slices.Sort(all)
	slices.Sort(required)
	return all, required
}

func sorted(o object) []string {
	var names []string
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func TestDocument_HasTheCodesAndStatuses(t *testing.T) {
	t.Parallel()
	doc := document(t)
	schemas := doc["components"].(object)["schemas"].(object)
	var got, statuses []string
	for _, code := range schemas["Problem"].(object)["properties"].(object)["code"].(object)["enum"].([]any) {
		got = append(got, code.(string))
	}
	var want []string
	for _, code := range problem.Codes() {
		want = append(want, string(code))
		statuses = append(statuses, strconv.Itoa(code.Status()))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for p, item := range doc["paths"].(object) {
		for method, op := range item.(object) {
			if method == "parameters" {
				continue
			}
			for status := range op.(object)["responses"].(object) {
				if status >= "400" && !slices.Contains(statuses, status) {
					t.Errorf("%s %s: nothing answers %s", method, p, status)
				}
			}
		}
	}
}

func TestDocument_ReferencesExist(t *testing.T) {
	t.Parallel()
	doc := document(t)
	text, _ := json.Marshal(doc)
	for _, ref := range regexp.MustCompile(`"\$ref":"#/components/(\w+)/(\w+)"`).FindAllStringSubmatch(string(text), -1) {
		if _, ok := doc["components"].(object)[ref[1]].(object)[ref[2]]; !ok {
			t.Errorf("there is no %s %s", ref[1], ref[2])
		}
	}
}

func TestMount_ServesWhatNeedsNoOtherHost(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	api.Mount(mux)
	for target, contentType := range map[string]string{"/openapi.json": "application/json", "/docs": "text/html; charset=utf-8"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
		if w.Code != 200 || w.Header().Get("Content-Type") != contentType {
			t.Fatalf("%s: %d %v", target, w.Code, w.Header())
		}
		if !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s may load things", target)
		}
		loads := regexp.MustCompile(`(?i)<(script|link|iframe|img|object|embed|base)|\bsrc\s*=|@import|url\(|href="(https?:)?//`)
		if target == "/docs" && loads.MatchString(w.Body.String()) {
			t.Errorf("the page loads %q", loads.FindString(w.Body.String()))
		}
	}
}
