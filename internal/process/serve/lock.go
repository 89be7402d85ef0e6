package serve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mainstay-io/mainstay/internal/app"
)

// lockDir takes a data directory for this process, until unlockDir: the lock ends with the process, however it ends.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, app.Errorf(app.ExitError, "Choose a directory that can be written with --data.", "making the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, app.Errorf(app.ExitError, "Choose a directory that can be written with --data.", "opening the lock of the data directory: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case err == nil:
		if err := f.Truncate(0); err == nil {
			_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // for people; the lock does not depend on it
		}
		return f, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, errors.Join(app.Errorf(app.ExitConflict,
			"Stop that one first, or give this one a directory of its own with --data.",
			"the data directory %s is in use by another mainstay%s", dir, holder(f)), f.Close())
	default:
		return nil, errors.Join(fmt.Errorf("locking the data directory %s: %w", dir, err), f.Close())
	}
}

// unlockDir gives a data directory back. To close the file is not enough: the lock belongs to all copies of its
// descriptor, and a process that is being started has one until it runs its own program.
func unlockDir(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) // only a bad descriptor is refused
	_ = f.Close()                                   // it was only held
}

// holder names the process that has the lock, if it said so.
func holder(f *os.File) string {
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0)
	var pid int
	if _, err := fmt.Sscanf(string(b[:n]), "%d", &pid); err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}
