package app_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/app"
)

func TestUnknownVariables(t *testing.T) {
	t.Parallel()
	env := app.Env{Environ: func() []string {
		return []string{
			"MAINSTAY_OPPS=:1", "MAINSTAY_DATABSE=postgres://u:secret@db/x", "MAINSTAY_WHATEVER_IT_IS=1", // strange
			"MAINSTAY_OPS=:1", "MAINSTAY_CONFIG=f", "MAINSTAY_URL=u", "MAINSTAY_CONSUME=orders", // known
			"OTHER_OPS=1", "MAINSTAYS=2", // somebody else's
			"MAINSTAY_SERVICE_HOST=10.0.0.1", "MAINSTAY_SERVICE_PORT=80", "MAINSTAY_SERVICE_PORT_HTTP=80", "MAINSTAY_PORT=tcp://10.0.0.1:80",
			"MAINSTAY_PORT_80_TCP_ADDR=10.0.0.1", "MAINSTAY_INGEST_SERVICE_HOST=10.0.0.2", // Kubernetes'
		}
	}}
	var got []string
	for _, v := range app.UnknownVariables(env) {
		got = append(got, v.String())
	}
	want := []string{
		"MAINSTAY_DATABSE is not a variable of Mainstay and changes nothing; did you mean MAINSTAY_DATABASE?",
		"MAINSTAY_OPPS is not a variable of Mainstay and changes nothing; did you mean MAINSTAY_OPS?",
		"MAINSTAY_WHATEVER_IT_IS is not a variable of Mainstay and changes nothing",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, s := range app.Settings() {
		if v := app.UnknownVariables(app.Env{Environ: func() []string { return []string{s.Variable() + "=1"} }}); v != nil {
			t.Errorf("%s is a setting and passes for unknown", s.Variable())
		}
	}
}
