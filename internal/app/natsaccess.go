package app

import (
	"errors"
	"os"
	"strings"
)

// natsAccess checks the settings about a NATS server of one's own: they need one, belong together, and name files that
// can be read.
func (c Config) natsAccess() []error {
	files := map[string]string{
		"nats_creds": c.NATSCreds, "nats_nkey": c.NATSNKey, "nats_tls_ca": c.NATSTLSCA,
		"nats_tls_cert": c.NATSTLSCert, "nats_tls_key": c.NATSTLSKey,
	}
	server := strings.Contains(c.Broker, "://")
	errs := []error{
		c.needs(server || c.NATSReplicas == 1, "nats_replicas", "is about a NATS server, and broker names none"),
		c.needs(c.NATSCreds == "" || c.NATSNKey == "", "nats_nkey", "and nats_creds exclude each other: a process has one identity"),
		c.needs(c.NATSTLSCert == "" || c.NATSTLSKey != "", "nats_tls_cert", "needs nats_tls_key, the key that belongs to it"),
		c.needs(c.NATSTLSKey == "" || c.NATSTLSCert != "", "nats_tls_key", "needs nats_tls_cert, the certificate that it belongs to"),
	}
	for _, s := range Settings() { // in the order of the table
		path := files[s.Name]
		if path == "" {
			continue
		}
		errs = append(errs, c.needs(server, s.Name, "is about a NATS server, and broker names none"))
		if err := readable(path); err != nil {
			errs = append(errs, c.needs(false, s.Name, "%s: %v", path, err))
		}
	}
	return errs
}

// readable answers nil when there is a file that can be read.
func readable(path string) error {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is no such file")
	case errors.Is(err, os.ErrPermission):
		return errors.New("the file may not be read by this user")
	case err != nil:
		return errors.New("the file cannot be opened")
	}
	defer f.Close() // it was only tried
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return errors.New("it is a directory, not a file")
	}
	return nil
}
