package app

import "time"

// Processes, as settings name them.
const (
	Serve  = "serve"
	Ingest = "ingest"
	Outbox = "outbox"
	Worker = "worker"
)

// Config is one immutable snapshot of the settings. It is passed by value.
type Config struct {
	Data                 string
	HTTP                 string
	Ops                  string
	Database             string
	Broker               string
	AllowUnauthenticated bool
	LogLevel             string
	LogFormat            string
	ShutdownGrace        time.Duration
	NATSSync             string
	NATSCreds            string
	NATSNKey             string
	NATSTLSCA            string
	NATSTLSCert          string
	NATSTLSKey           string
	NATSReplicas         int
	IdempotencyRetention time.Duration
	OutboxRetention      time.Duration
	HistoryRetention     time.Duration
	BarrierRetention     time.Duration
	PrivateRetention     time.Duration
	InFlight             int
	Waiters              int
	OrderDeadline        time.Duration
	RetryBudget          time.Duration
	StepTimeout          time.Duration
	CallTimeout          time.Duration
	Lanes                int
	WorkerConcurrency    int
	Wakeups              string
	Consume              string
	AllowUnsafe          bool

	process string
	origins map[string]Origin
}

// Settings is the table of all settings: name, default, what it means, where it goes, what it must be, and which
// processes take it beside `serve`. A line here (and its field in Config) is all that a new setting takes.
func Settings() []Setting {
	return []Setting{
		text("data", "./mainstay-data", "Directory of everything that `serve` keeps: its database, unless that is given a path or a server, and the embedded broker's store.",
			func(c *Config) *string { return &c.Data }, notEmpty),
		text("http", "127.0.0.1:8080", "Address of the ingest API. Left alone, a busy port gives way to the next free one.",
			func(c *Config) *string { return &c.HTTP }, hostPort).also(Ingest),
		text("ops", "127.0.0.1:8081", "Address of probes and metrics, and where an ingest runs of the operator API. Left alone, a busy port gives way to the next free one.",
			func(c *Config) *string { return &c.Ops }, hostPort).also(Ingest, Outbox, Worker),
		secret("database", "", "Database: `postgres://USER:PASSWORD@HOST/NAME`. `serve` alone takes `sqlite:PATH` too, with the payment gateway's books beside that file (`?synchronous=normal` behind it only with `allow_unsafe_durability`), and nothing: then it is SQLite inside the data directory.",
			func(c *Config) *string { return &c.Database }, encodedUser("@/")).schemes([]string{"postgres", "postgresql"}, "sqlite").also(Ingest, Outbox, Worker),
		secret("broker", "", "Broker: `nats://HOST:4222[,nats://HOST:4222]`, or `database` (workers read the log, no broker at all). `serve` alone takes `memory` too, and nothing: then it is the embedded NATS server.",
			func(c *Config) *string { return &c.Broker }, encodedUser("@/?#")).schemes([]string{"nats", "tls", "database"}, "memory").also(Outbox, Worker),
		boolean("allow_unauthenticated", false, "Serve on addresses that other machines can reach, although nobody is asked who they are.",
			func(c *Config) *bool { return &c.AllowUnauthenticated }).also(Ingest, Outbox, Worker),
		text("log_level", "info", "Least severe log line that is written: `debug`, `info`, `warn` or `error`.",
			func(c *Config) *string { return &c.LogLevel }, oneOf("debug", "info", "warn", "error")).also(Ingest, Outbox, Worker),
		text("log_format", "auto", "Form of log lines: `text`, `json`, or `auto` (text on a terminal, else JSON).",
			func(c *Config) *string { return &c.LogFormat }, oneOf("auto", "text", "json")).also(Ingest, Outbox, Worker),
		duration("shutdown_grace", 20*time.Second, "How long a stopping process may take to drain and close.",
			func(c *Config) *time.Duration { return &c.ShutdownGrace }, between(time.Second, 10*time.Minute)).also(Ingest, Outbox, Worker),
		text("nats_sync", "lazy", "When the embedded broker syncs its store to disk: `lazy` (a power cut may lose its tail, which is then filled again from the outbox), or `always`.",
			func(c *Config) *string { return &c.NATSSync }, oneOf("lazy", "always")),
		text("nats_creds", "", "File with the credentials for a NATS server: the user's JWT and seed, as `nsc` writes it. A user and password, or a token, stand in the URL of broker instead.",
			func(c *Config) *string { return &c.NATSCreds }).also(Outbox, Worker),
		text("nats_nkey", "", "File with the seed of the nkey by which a NATS server knows the process.",
			func(c *Config) *string { return &c.NATSNKey }).also(Outbox, Worker),
		text("nats_tls_ca", "", "File of the certificates (PEM) by which a NATS server's own is trusted; empty it is those of the machine. TLS itself is asked for in the URL: `tls://HOST:4222`.",
			func(c *Config) *string { return &c.NATSTLSCA }).also(Outbox, Worker),
		text("nats_tls_cert", "", "File of the certificate (PEM) that is shown to a NATS server which asks for one.",
			func(c *Config) *string { return &c.NATSTLSCert }).also(Outbox, Worker),
		text("nats_tls_key", "", "File of the key (PEM) of nats_tls_cert.",
			func(c *Config) *string { return &c.NATSTLSKey }).also(Outbox, Worker),
		number("nats_replicas", 1, "Servers of a NATS cluster that each keep a copy of the stream, when it is first made: 3 survives the loss of one. A stream that exists with fewer is warned about.",
			func(c *Config) *int { return &c.NATSReplicas }, between(1, 5)).also(Outbox, Worker),
		duration("idempotency_retention", 24*time.Hour, "How long an idempotency key keeps its answer.",
			func(c *Config) *time.Duration { return &c.IdempotencyRetention }, between(24*time.Hour, 366*24*time.Hour)).also(Ingest),
		duration("outbox_retention", 7*24*time.Hour, "How long a message stays in the outbox, at least: longer than any broker keeps its copy (24 h), so that it can be filled again. What a registered consumer or the relay still needs stays longer.",
			func(c *Config) *time.Duration { return &c.OutboxRetention }, between(48*time.Hour, 366*24*time.Hour)).also(Outbox),
		duration("history_retention", 30*24*time.Hour, "How long an ended saga, its history and its steps' outcomes stay, and the case of a dead letter that has ended. Orders, payments, bookings and stock movements stay for ever.",
			func(c *Config) *time.Duration { return &c.HistoryRetention }, between(48*time.Hour, 10*366*24*time.Hour)).also(Outbox),
		duration("barrier_retention", 90*24*time.Hour, "How long a participant remembers the outcome of a step whose saga is not in its database: longer than any command may be repeated or replayed.",
			func(c *Config) *time.Duration { return &c.BarrierRetention }, between(48*time.Hour, 10*366*24*time.Hour)).also(Outbox),
		duration("private_retention", 0, "How long personal data (name, address, payment token) of an order stays after the order's end; 0 keeps it.",
			func(c *Config) *time.Duration { return &c.PrivateRetention }, between(0, 100*366*24*time.Hour)).also(Outbox),
		number("in_flight", 1024, "Requests that are served at a time; one more is answered 503 with Retry-After.",
			func(c *Config) *int { return &c.InFlight }, between(1, 1_000_000)).also(Ingest),
		number("waiters", 4096, "Requests with `?wait` that are held at a time, beside those in flight.",
			func(c *Config) *int { return &c.Waiters }, between(1, 10_000)).also(Ingest),
		duration("order_deadline", 2*time.Minute, "Time from an order's acceptance until it must have passed its point of no return; past it, it is compensated.",
			func(c *Config) *time.Duration { return &c.OrderDeadline }, between(time.Second, 30*24*time.Hour)).also(Ingest, Worker),
		duration("retry_budget", 15*time.Minute, "For how long after its first failure a message, or a call to a remote participant whose outcome nobody knows, is tried again before it becomes a dead letter; an order that waits for it then needs an operator. What no repetition can help becomes one at once.",
			func(c *Config) *time.Duration { return &c.RetryBudget }, between(time.Second, 30*24*time.Hour)).also(Worker),
		duration("step_timeout", 10*time.Second, "How long a saga waits for the reply of a step before it asks again.",
			func(c *Config) *time.Duration { return &c.StepTimeout }, between(100*time.Millisecond, time.Hour)).also(Ingest, Worker),
		duration("call_timeout", 5*time.Second, "Time that one call to a remote participant may take.",
			func(c *Config) *time.Duration { return &c.CallTimeout }, between(10*time.Millisecond, 10*time.Minute)).also(Worker),
		text("consume", "", "Consumers that the process hosts, separated by commas: `orders`, `inventory`, `payment`, `logistics`; empty is all of them.",
			func(c *Config) *string { return &c.Consume }, listOf("orders", "inventory", "payment", "logistics")).only(Worker),
		boolean("allow_unsafe_durability", false, "Run on a PostgreSQL with `fsync`, `full_page_writes` or `synchronous_commit` off, or on a SQLite file with `synchronous` below `full`, where a crash or a power cut may take back what was accepted.",
			func(c *Config) *bool { return &c.AllowUnsafe }).also(Ingest, Outbox, Worker),
		text("wakeups", "notify", "How processes learn of each other's work on PostgreSQL: `notify` (LISTEN and NOTIFY, and rare polling for what was missed), or `poll` (frequent polling, and no session that must stay: for a pooler in transaction mode). A killed process is then replaced when its leases run out, not at once.",
			func(c *Config) *string { return &c.Wakeups }, oneOf("notify", "poll")).also(Ingest, Outbox, Worker),
		number("lanes", 0, "Ordered slices of a topic. Read when the schema is first made, and fixed from then on; 0 is 4 for an embedded database, 16 otherwise.",
			func(c *Config) *int { return &c.Lanes }, between(0, 256)),
		number("worker_concurrency", 8, "How much is worked on at a time: a consumer has up to eight times as many calls to remote participants under way.",
			func(c *Config) *int { return &c.WorkerConcurrency }, between(1, 1024)).also(Worker),
	}
}

// crossChecks are the rules that join settings.
func crossChecks() []func(Config) error {
	return []func(Config) error{
		Config.sharedDatabase,
		Config.sharedBroker,
		func(c Config) error {
			if !c.Takes("http") {
				return nil
			}
			return c.reachable("http", c.HTTP, "place orders")
		},
		func(c Config) error {
			if !c.Takes("http") {
				return c.reachable("ops", c.Ops, "read its metrics")
			}
			return c.reachable("ops", c.Ops, "change stock and carriers")
		},
		func(c Config) error {
			return c.needs(c.StepTimeout < c.OrderDeadline, "step_timeout", "must be shorter than order_deadline (%v)", c.OrderDeadline)
		},
		func(c Config) error {
			return c.needs(c.OutboxRetention <= c.HistoryRetention, "history_retention", "must not be shorter than outbox_retention (%v): a message could come whose saga is forgotten", c.OutboxRetention)
		},
		func(c Config) error {
			return c.needs(c.HistoryRetention <= c.BarrierRetention, "barrier_retention", "must not be shorter than history_retention (%v): a command could be repeated whose outcome is forgotten", c.HistoryRetention)
		},
		func(c Config) error {
			return c.needs(!c.Takes("http") || c.HTTP != c.Ops || portOf(c.HTTP) == "0", "ops", "must differ from http (%s): the operator's surface has an address of its own", c.HTTP)
		},
		func(c Config) error {
			f, isFile := c.SQLite()
			return c.needs(c.Database != "sqlite" && (!isFile || f.Path != "" && f.Path != ":memory:"), "database",
				"must name a file, as in sqlite:/var/lib/mainstay/mainstay.db")
		},
		Config.durableSQLite,
		func(c Config) error {
			return c.needs(c.NATSSync == "lazy" || c.Broker == "", "nats_sync", "is about the embedded broker, and broker names another one")
		},
	}
}
