package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Copy copies the files of a stopped server, and answers with what puts them back, which wants it to be stopped, too:
// a backup of the disk below it.
func (s *Server) Copy() (restore func()) {
	s.t.Helper()
	data, copied := s.DataDir(), filepath.Join(s.s.dir, "copy")
	s.tool("cp", "-a", data, copied)
	return func() {
		s.t.Helper()
		if err := os.RemoveAll(data); err != nil {
			s.t.Fatal(err)
		}
		s.tool("cp", "-a", copied, data)
	}
}

// Dump writes a dump of a database of this server, and answers with what makes the database anew from it, ending the
// sessions of whoever still uses it.
func (s *Server) Dump(database string) (restore func()) {
	s.t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		s.t.Fatalf("reading the URL of the database: %v", err)
	}
	name, file := strings.TrimPrefix(u.Path, "/"), filepath.Join(s.s.dir, "dump.sql")
	s.tool(filepath.Join(s.s.bin, "pg_dump"), "--dbname", database, "--file", file)
	return func() {
		s.t.Helper()
		for _, statement := range []string{
			fmt.Sprintf("drop database %s with (force)", name), fmt.Sprintf("create database %s template template0", name),
		} {
			if err := execute(s.URL(), statement); err != nil {
				s.t.Fatalf("making the database anew: %v", err)
			}
		}
		s.tool(filepath.Join(s.s.bin, "psql"), "--quiet", "--output", os.DevNull, "--set", "ON_ERROR_STOP=1", "--dbname", database, "--file", file)
	}
}

// tool runs a program as the server's user.
func (s *Server) tool(name string, args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	s.s.prepare(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}
