package migrate

import "io/fs"

// With is the runner with other migrations than the program's own.
func (r Runner) With(folder fs.FS) Runner {
	r.folder = folder
	return r
}
