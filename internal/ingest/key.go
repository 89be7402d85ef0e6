package ingest

import (
	"errors"
	"strings"
)

// maxKey bounds an idempotency key, in bytes.
const maxKey = 255

// Errors of ParseKey.
var (
	ErrKeyMissing = errors.New("ingest: no idempotency key was sent")
	ErrKeyInvalid = errors.New("ingest: an idempotency key is 1 to 255 visible ASCII characters, sent once")
)

// ParseKey reads the values of the Idempotency-Key header: one key of 1 to 255 visible ASCII characters, bare or as
// a structured-field string in quotes. Both spellings of a key are the same key.
func ParseKey(values []string) (string, error) {
	if len(values) > 1 {
		return "", ErrKeyInvalid
	}
	raw := strings.Trim(strings.Join(values, ""), " \t")
	if raw == "" {
		return "", ErrKeyMissing
	}
	key, ok := raw, true
	if raw[0] == '"' {
		key, ok = unquote(raw)
	}
	if !ok || key == "" || len(key) > maxKey || !visible(key) {
		return "", ErrKeyInvalid
	}
	return key, nil
}

// unquote reads an sf-string (RFC 9651, section 3.3.3): only the quote and the backslash are escaped.
func unquote(raw string) (string, bool) {
	var b strings.Builder
	for i := 1; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			return b.String(), i == len(raw)-1
		case '\\':
			i++
			if i == len(raw) || raw[i] != '"' && raw[i] != '\\' {
				return "", false
			}
		}
		b.WriteByte(raw[i])
	}
	return "", false
}

func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
