// Package api is the description of the HTTP interface: openapi.yaml is written by hand, openapi.json and docs.html
// are made from it by `go test ./api -update`, and the package's test holds all of them equal to the code.
package api

import (
	_ "embed"
	"net/http"
)

//go:embed openapi.json
var openAPI []byte //nolint:gochecknoglobals // embedded, never written

//go:embed docs.html
var docs []byte //nolint:gochecknoglobals // embedded, never written

// Routes lists the patterns that Mount registers.
func Routes() []string { return []string{"GET /openapi.json", "GET /docs"} }

// Mount serves the description as OpenAPI 3.1 and as a page to read, which needs nothing from another host.
func Mount(mux *http.ServeMux) {
	mux.HandleFunc("GET /openapi.json", serve("application/json", openAPI))
	mux.HandleFunc("GET /docs", serve("text/html; charset=utf-8", docs))
}

func serve(contentType string, content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		h.Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(content) // the reader has left
	}
}
