package problem

import (
	"net/http"
	"strings"
)

// everything is the pattern under which Fallback is mounted.
const everything = "/"

// MountFallback makes mux answer with problems where it has no route: 405 with Allow where the path is known under
// another method, else 404. Every other route of mux must name its method.
func MountFallback(mux *http.ServeMux) {
	mux.HandleFunc(everything, func(w http.ResponseWriter, r *http.Request) {
		if allow := allowed(mux, r); allow != "" {
			w.Header().Set("Allow", allow)
			Write(w, r, New(MethodNotAllowed, "use one of: "+allow))
			return
		}
		Write(w, r, New(NotFound, "nothing is at this path"))
	})
}

// allowed lists the methods that the path of r has a route for.
func allowed(mux *http.ServeMux, r *http.Request) string {
	var methods []string
	for _, method := range []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	} {
		probe := *r
		probe.Method = method
		if _, pattern := mux.Handler(&probe); pattern != everything && pattern != "" {
			methods = append(methods, method)
		}
	}
	return strings.Join(methods, ", ")
}
