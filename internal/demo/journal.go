package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
)

// journal is the clients' own record of what they were answered, as `mainstay verify --journal` reads it. It may be
// used by many goroutines.
type journal struct {
	mu     sync.Mutex
	file   *os.File
	remove bool
	err    error // the first failure of writing
}

// newJournal makes the journal at a path, or, for "", one that goes away when it is closed.
func newJournal(path string) (*journal, error) {
	open := func() (*os.File, error) { return os.CreateTemp("", "mainstay-demo-*.jsonl") }
	if path != "" {
		open = func() (*os.File, error) { return os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600) }
	}
	f, err := open()
	if err != nil {
		return nil, fmt.Errorf("making the journal: %w", err)
	}
	return &journal{file: f, remove: path == ""}, nil
}

// add notes one answer; status 0 is none.
func (j *journal) add(key string, status int, orderID string) {
	line, err := json.Marshal(struct {
		Key     string `json:"key"`
		Status  int    `json:"status"`
		OrderID string `json:"order_id"`
	}{key, status, orderID})
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil && j.err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if j.err == nil {
		j.err = err
	}
}

// reader gives what was noted so far. The error says that something could not be noted.
func (j *journal) reader() (io.Reader, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return nil, fmt.Errorf("writing the journal: %w", j.err)
	}
	size, err := j.file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	return io.NewSectionReader(j.file, 0, size), nil
}

func (j *journal) close() {
	_ = j.file.Close() // it was read through the same file
	if j.remove {
		_ = os.Remove(j.file.Name()) // it is in the directory for temporary files
	}
}
