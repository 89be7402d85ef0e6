package pgproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
)

// Requests that come before the protocol proper, in place of a version.
const (
	sslRequest    = 80877103
	gssEncRequest = 80877104
)

// maxMessage bounds a message: more is a mistake in the reading.
const maxMessage = 1 << 28

// session is one connection of a client, with the server's side of it.
type session struct {
	p              *Proxy
	client, server net.Conn
	statements     map[string]string // prepared, by name
	portals        map[string]string // the statement's text, by portal
	open           bool              // a transaction has begun
	done           []string          // executed in it
	// fate is the Fault of a commit whose answer must not reach the client.
	fate atomic.Int32
}

// requests forwards what the client sends, and drops both sides when it ends. After a fault that wants the server's
// answer, the server's side is left to answers.
func (s *session) requests() {
	err := s.forward()
	s.p.drop(s.client)
	if !errors.Is(err, errCut) || Fault(s.fate.Load()) == None {
		s.p.drop(s.server)
	}
}

func (s *session) forward() error {
	from := bufio.NewReaderSize(s.client, 1<<16)
	if err := s.startup(from); err != nil {
		return err
	}
	for {
		m, err := readMessage(from)
		if err != nil {
			return err
		}
		s.p.pass()
		if err := s.request(m, from); err != nil {
			return err
		}
	}
}

// startup forwards the client's first message. Encryption is refused, as there would be nothing to read.
func (s *session) startup(from *bufio.Reader) error {
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(from, head); err != nil {
			return err
		}
		switch code := binary.BigEndian.Uint32(head[4:]); code {
		case sslRequest, gssEncRequest:
			if _, err := s.client.Write([]byte("N")); err != nil {
				return err
			}
			continue
		}
		size := binary.BigEndian.Uint32(head)
		if size < 8 || size > maxMessage {
			return fmt.Errorf("a first message of %d bytes", size)
		}
		rest := make([]byte, size-8)
		if _, err := io.ReadFull(from, rest); err != nil {
			return err
		}
		_, err := s.server.Write(append(head, rest...))
		return err
	}
}

// request forwards one message, or does to it what was chosen.
func (s *session) request(m message, from *bufio.Reader) error {
	fault := None
	for _, statement := range s.executes(m) {
		if f := s.execute(statement); f != None {
			fault = f
		}
	}
	if fault == Before {
		return errCut
	}
	s.fate.CompareAndSwap(int32(None), int32(fault))
	if _, err := s.server.Write(m); err != nil || fault == None {
		return err
	}
	return s.rest(m, from, fault)
}

// execute keeps in mind where the connection's transaction is, and asks what is to happen where one is to commit.
func (s *session) execute(statement string) Fault {
	done := s.done
	switch {
	case isCommit(statement):
		s.open, s.done = false, nil
		return s.p.commit(done)
	case isRollback(statement):
		s.open, s.done = false, nil
	case s.open || isBegin(statement):
		s.open, s.done = true, append(done, statement)
	default:
		return s.p.alone(statement)
	}
	return None
}

// rest forwards the remainder of a pipeline, so that the server acts on it, and then waits for nothing or, for After,
// until answers has dropped the client.
func (s *session) rest(m message, from *bufio.Reader, fault Fault) error {
	for m.kind() != 'Q' && m.kind() != 'S' {
		var err error
		if m, err = readMessage(from); err != nil {
			return errCut
		}
		if _, err := s.server.Write(m); err != nil {
			return errCut
		}
	}
	if fault == After {
		_, _ = io.Copy(io.Discard, from) // it ends when the client is dropped
	}
	return errCut
}

// answers forwards what the server sends, until the answer to a commit that was cut. A statement alone says that it is
// complete before it is committed; after the commit, or the failure of either, the server is ready for the next.
func (s *session) answers() {
	defer s.p.drop(s.client, s.server)
	from := bufio.NewReaderSize(s.server, 1<<16)
	for {
		m, err := readMessage(from)
		if err != nil {
			return
		}
		s.p.pass()
		fate := Fault(s.fate.Load())
		switch {
		case fate == None:
			if _, err := s.client.Write(m); err != nil {
				return
			}
		case m.kind() == 'Z':
			return
		case m.kind() != 'C' && m.kind() != 'E':
			_, _ = s.client.Write(m) // it may be gone
		}
	}
}

// executes tells which statements a message runs, and keeps in mind what it prepares.
func (s *session) executes(m message) []string {
	body := m.body()
	switch m.kind() {
	case 'Q':
		text, _ := cString(body)
		return strings.Split(strings.TrimSuffix(strings.TrimSpace(text), ";"), ";")
	case 'P':
		name, body := cString(body)
		s.statements[name], _ = cString(body)
	case 'B':
		portal, body := cString(body)
		name, _ := cString(body)
		s.portals[portal] = s.statements[name]
	case 'E':
		portal, _ := cString(body)
		return []string{s.portals[portal]}
	}
	return nil
}

func isCommit(statement string) bool {
	word := firstWord(statement)
	return word == "commit" || word == "end"
}

func isRollback(statement string) bool { return firstWord(statement) == "rollback" }

func isBegin(statement string) bool {
	words := strings.Fields(strings.ToLower(statement))
	return len(words) > 0 && (words[0] == "begin" || words[0] == "start")
}

// firstWord is a statement's first word in lower case, without comments before it. A rollback to a savepoint has none.
func firstWord(statement string) string {
	statement = strings.TrimSpace(statement)
	for strings.HasPrefix(statement, "/*") {
		_, after, _ := strings.Cut(statement, "*/")
		statement = strings.TrimSpace(after)
	}
	words := strings.Fields(strings.ToLower(statement))
	if len(words) == 0 || len(words) > 2 {
		return "" // commit and rollback may be followed by "work" or "transaction" only
	}
	return words[0]
}

// message is one of the protocol as it is on the wire: a kind, a length that counts itself, a body.
type message []byte

func (m message) kind() byte   { return m[0] }
func (m message) body() []byte { return m[5:] }

func readMessage(from *bufio.Reader) (message, error) {
	head, err := from.Peek(5)
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size < 4 || size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	m := make(message, 1+size)
	_, err = io.ReadFull(from, m)
	return m, err
}

// cString reads a string that ends in a zero byte, and gives what follows it.
func cString(b []byte) (text string, rest []byte) {
	head, rest, _ := bytes.Cut(b, []byte{0})
	return string(head), rest
}
