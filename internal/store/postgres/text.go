package postgres

import "strings"

// text makes s fit for a text column, which takes neither a zero byte nor broken UTF-8; error texts may have both.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}
