package app

import (
	"fmt"
	"strings"
)

// What only a process that has everything in itself can do without, or have for itself, is refused here: the processes
// that scale out share a server's database, and a broker that each of them can reach.

func (c Config) sharedDatabase() error {
	const how = "give --database postgres://USER:PASSWORD@HOST/NAME, or MAINSTAY_DATABASE"
	switch {
	case c.process == "" || c.process == Serve:
		return nil
	case c.Database == "":
		return fmt.Errorf("--database is missing: %s keeps everything in a PostgreSQL database that all processes share; %s", c.process, how)
	default:
		return c.needs(!strings.HasPrefix(c.Database, "sqlite"), "database",
			"a SQLite file belongs to one process, which is `mainstay serve`; %s", how)
	}
}

func (c Config) sharedBroker() error {
	const how = "give --broker nats://HOST:4222, or MAINSTAY_BROKER; `database` stands for no broker, workers then read the log"
	switch {
	case c.process != Outbox && c.process != Worker:
		return nil
	case c.Broker == "":
		return fmt.Errorf("--broker is missing: %s", how)
	default:
		return c.needs(c.Broker != "memory", "broker", "memory is not shared between processes; %s", how)
	}
}
