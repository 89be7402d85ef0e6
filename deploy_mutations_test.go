package mainstay_test

import (
	"strings"
	"testing"
)

// TestDeploy_RefusesWhatDisagrees changes one thing at a time, and wants it to be found, by name.
func TestDeploy_RefusesWhatDisagrees(t *testing.T) {
	t.Parallel()
	const compose, dockerfile, prometheus, alerts = "compose", "dockerfile", "prometheus", "alerts"
	for name, tt := range map[string]struct{ file, old, new, want string }{
		"a key that nothing checks":     {compose, "    restart: \"no\"\n", "    restart: \"no\"\n    privileged: true\n", "privileged"},
		"a target that is not there":    {compose, "target: worker", "target: workers", `no target "workers"`},
		"another Dockerfile":            {compose, "deploy/Dockerfile, target: ingest", "Dockerfile, target: ingest", "ingest: built from"},
		"a flag that is not there":      {compose, "--http=0.0.0.0:8080", "--htp=0.0.0.0:8080", "unknown flag"},
		"a flag of another process":     {compose, "[--http=0.0.0.0:8080]", "[--http=0.0.0.0:8080, --consume=orders]", "unknown flag"},
		"an argument too many":          {compose, "[--http=0.0.0.0:8080]", "[--http=0.0.0.0:8080, serve]", "[serve] left"},
		"a value that is refused":       {compose, "--http=0.0.0.0:8080", "--http=8080", "HOST:PORT"},
		"a variable that is not there":  {compose, "MAINSTAY_OPS: 0.0.0.0:8081\n    MAINSTAY_ALLOW", "MAINSTAY_OPPS: 0.0.0.0:8081\n    MAINSTAY_ALLOW", "no variable MAINSTAY_OPPS"},
		"a variable of another process": {compose, "      MAINSTAY_OPS: 0.0.0.0:8081\n", "      MAINSTAY_OPS: 0.0.0.0:8081\n      MAINSTAY_CONSUME: orders\n", "no variable MAINSTAY_CONSUME"},
		"strangers are not allowed":     {compose, "      MAINSTAY_ALLOW_UNAUTHENTICATED: \"true\"\n", "", "can be reached by other machines"},
		"no broker":                     {compose, "    MAINSTAY_BROKER: nats://nats:4222\n", "", "--broker is missing"},
		"another broker":                {compose, "nats://nats:4222", "nats://broker:4222", "no broker at"},
		"another password":              {compose, "POSTGRES_PASSWORD: mainstay", "POSTGRES_PASSWORD: secret", "not the database that postgres makes"},
		"another database":              {compose, "5432/mainstay\n    MAINSTAY_BROKER", "5432/orders\n    MAINSTAY_BROKER", "not the database that postgres makes"},
		"a version that is not tested":  {compose, "postgres:17", "postgres:12", "version 12 is not tested"},
		"an image without a version":    {compose, "prom/prometheus:v3.5.0", "prom/prometheus:latest", "has no version"},
		"an older NATS":                 {compose, "nats:2.15-alpine", "nats:2.9-alpine", "not the version that go.mod has"},
		"a NATS without tools":          {compose, "nats:2.15-alpine", "nats:2.15", "no program that could check"},
		"a NATS without JetStream":      {compose, "--jetstream, ", "", "no JetStream"},
		"a check of another port":       {compose, "--http_port=8222", "--http_port=8333", "another port than its own"},
		"a check without a program":     {compose, "test: [CMD, /outbox, ready]", "test: [CMD, curl, localhost]", "outbox: its health is not checked by its own binary"},
		"a check of another process":    {compose, "test: [CMD, /outbox, ready]", "test: [CMD, /worker, ready]", "outbox: its health is not checked by its own binary"},
		"no check":                      {compose, "    healthcheck: {<<: *ready, test: [CMD, /worker, ready]}\n", "", "worker: its health is not checked by its own binary"},
		"a check in no time":            {compose, "  timeout: 5s\n", "  timeout: 2s\n", "its health check gives up"},
		"waits for nobody's health":     {compose, "migrate: {condition: service_completed_successfully}\n      postgres", "migrate: {condition: service_healthy}\n      postgres", "which nobody checks"},
		"waits for who does not end":    {compose, "nats: {condition: service_healthy}", "nats: {condition: service_completed_successfully}", "which does not end"},
		"waits for nothing":             {compose, "    nats: {condition: service_healthy}\n", "", "must wait for nats"},
		"does not wait for the schema":  {compose, "      migrate: {condition: service_completed_successfully}\n", "", "ingest: must wait for migrate"},
		"waits for who is not there":    {compose, "    nats: {condition: service_healthy}", "    kafka: {condition: service_healthy}", "kafka, which is not there"},
		"starts no more after a crash":  {compose, "  restart: unless-stopped\n  stop_grace", "  stop_grace", "restart must be"},
		"is killed before it is done":   {compose, "stop_grace_period: 30s #", "stop_grace_period: 20s #", "not longer than shutdown_grace"},
		"published for everybody":       {compose, "127.0.0.1:8080:8080", "8080:8080", "not published on 127.0.0.1"},
		"a port that nobody listens on": {compose, "127.0.0.1:8080:8080", "127.0.0.1:8080:80", "does not listen on port 80"},
		"another port than the image's": {compose, "--http=0.0.0.0:8080", "--http=0.0.0.0:8088", "the image exposes"},
		"a volume that is not declared": {compose, "- nats:/data", "- jetstream:/data", "jetstream is not declared"},
		"a volume that nobody uses":     {compose, "\nvolumes:\n", "\nvolumes:\n  spare:\n", "nobody uses the volume spare"},
		"a volume at the wrong place":   {compose, "postgres:/var/lib/postgresql/data", "postgres:/var/lib/postgres", "is no volume"},
		"a store outside the volume":    {compose, "--store_dir=/data", "--store_dir=/store", "is no volume"},
		"a file that is not there":      {compose, "./deploy/prometheus.yml", "./prometheus.yml", "which is not there"},
		"a service without anything":    {compose, "\n  prometheus:\n    image", "\n  spare:\n  prometheus:\n    image", "spare is empty"},
		"one relay only":                {compose, "/outbox, ready]}\n    deploy: {replicas: 2}", "/outbox, ready]}\n    deploy: {replicas: 1}", "must be 2 of outbox"},
		"too few connections":           {compose, "max_connections=400", "max_connections=300", "too little for 13 processes"},
		"a file system that is written": {compose, "    restart: \"no\"\n    read_only: true\n", "    restart: \"no\"\n", "migrate: needs neither"},
		"a binary that is not there":    {dockerfile, "COPY --from=build /out/worker /", "COPY --from=build /out/workers /", "worker: does not start its binary"},
		"another entrypoint":            {dockerfile, `ENTRYPOINT ["/outbox"]`, `ENTRYPOINT ["/ingest"]`, "outbox: does not start its binary"},
		"an entrypoint in a shell":      {dockerfile, `ENTRYPOINT ["/outbox"]`, `ENTRYPOINT /outbox`, "outbox: needs a shell"},
		"root":                          {dockerfile, "USER 65532:65532", "USER root", "numbered user"},
		"user 0":                        {dockerfile, "USER 65532:65532", "USER 0:0", "numbered user"},
		"a system around it":            {dockerfile, "FROM scratch AS base", "FROM debian AS base", "not built on scratch"},
		"no certificates":               {dockerfile, "COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/\n", "", "has no certificates"},
		"a C library":                   {dockerfile, "CGO_ENABLED=0 ", "", "CGO_ENABLED=0"},
		"symbols":                       {dockerfile, "-ldflags=-s ", "", "-ldflags=-s"},
		"another Go":                    {dockerfile, "golang:1.26", "golang:1.25", "builds with golang:1.25"},
		"a port that is not exposed":    {dockerfile, "EXPOSE 8080 8081\nENTRYPOINT [\"/ingest\"]", "EXPOSE 8080\nENTRYPOINT [\"/ingest\"]", "the image exposes [8080]"},
		"a variable in the image":       {dockerfile, "ENV MAINSTAY_DATA=", "ENV MAINSTAY_DIR=", "no variable MAINSTAY_DIR"},
		"metrics on another port":       {prometheus, "names: [ingest], type: A, port: 8081", "names: [ingest], type: A, port: 8080", "no metrics on port 8080"},
		"metrics of who is not there":   {prometheus, "names: [outbox]", "names: [relay]", "relay has no metrics"},
		"nobody asks":                   {prometheus, "names: [worker]", "names: [outbox]", "does not ask worker"},
		"no rules":                      {prometheus, "rule_files: [/etc/prometheus/alerts.yml]\n", "", "has no rules"},
		"rules that are not there":      {prometheus, "/etc/prometheus/alerts.yml", "/etc/prometheus/rules.yml", "are not deploy/alerts.yml"},
		"rules that are not mounted":    {compose, "      - ./deploy/alerts.yml:/etc/prometheus/alerts.yml:ro\n", "", "are not deploy/alerts.yml"},
		"a metric that is not there":    {alerts, "mainstay_ready ==", "mainstay_well ==", "MainstayNotReady: no metric has a name or a label mainstay_well"},
		"a label that is not there":     {alerts, "max by (consumer) (mainstay_lanes", "max by (lane) (mainstay_lanes", "MainstayLanesUnheld: no metric has a name or a label lane"},
		"a label of another metric":     {alerts, "lanes of {{ $labels.consumer }}", "lanes of {{ $labels.saga }}", "MainstayLanesUnheld: has no label saga"},
		"a bracket that stays open":     {alerts, "max(mainstay_outbox_oldest_unnumbered_seconds)", "max(mainstay_outbox_oldest_unnumbered_seconds", "MainstayNotNumbered: brackets"},
		"an alert that nobody explains": {alerts, "alert: MainstayDown", "alert: MainstayAway", "docs/guides/alerts.md does not say what MainstayAway means"},
		"an alert without words":        {alerts, "        annotations: {summary: \"{{ $labels.job }} at {{ $labels.instance }} does not answer\"}\n", "", "MainstayDown: has no summary"},
		"a time that is none":           {alerts, "for: 1m", "for: soon", "MainstayDown: for soon"},
		"a severity that is none":       {alerts, "severity: critical", "severity: loud", "MainstayDown: severity loud"},
		"a key that Prometheus has not": {prometheus, "type: A, port: 8081", "kind: A, port: 8081", "field kind not found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := theDeployment(t)
			text := map[string]*string{compose: &d.compose, dockerfile: &d.dockerfile, prometheus: &d.prometheus, alerts: &d.alerts}[tt.file]
			changed := strings.Replace(*text, tt.old, tt.new, 1)
			if changed == *text {
				t.Fatalf("%q is not in the %s", tt.old, tt.file)
			}
			*text = changed
			if found := strings.Join(d.problems(), "\n"); !strings.Contains(found, tt.want) {
				t.Errorf("nothing was said with %q; only:\n%s", tt.want, found)
			}
		})
	}
}
