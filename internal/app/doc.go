// Package app is what every process of the backbone is started, configured and stopped by: the environment that a
// command sees, configuration, exit codes, listening, readiness, and the order of a shutdown.
//
// # Configuration
//
// A setting is one line of the table in settings.go; its flag, its environment variable, its key in the file and its
// entry in docs/reference/config.md follow from it. Flags go before environment, environment before file, file before
// default. A file is read only when --config or MAINSTAY_CONFIG names it: nothing is picked up from the working
// directory by chance. All mistakes are reported at once.
//
// # Shutdown
//
// A Group stops in one order: not ready; intake stops and drains; work drains; what is left is cancelled with the
// cause mainstay.ErrShutdown; then everything that was opened is closed, the last opened first. It does so within
// the grace period, or says by name what did not end.
package app
