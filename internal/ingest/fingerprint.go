package ingest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/go-json-experiment/json/jsontext"
)

// Fingerprint is a SHA-256 over method, path and the canonical form of a JSON body: the same for bodies that mean the
// same, whatever their whitespace, order of members, escapes and spelling of numbers. Unlike RFC 8785 it keeps
// numbers exact, since two amounts beyond 2^53 are not one amount. The error says that body is not strict JSON.
func Fingerprint(method, path string, body []byte) ([32]byte, error) {
	canonical, err := Canonical(body)
	if err != nil {
		return [32]byte{}, err
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(method), []byte(path), canonical} {
		var size [8]byte // so that no part can continue in the next
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write(part)
	}
	return [32]byte(h.Sum(nil)), nil
}

// Canonical is the one spelling that Fingerprint gives a JSON value. It does not change body, and its result is its
// own canonical form.
func Canonical(body []byte) ([]byte, error) {
	v := jsontext.Value(bytes.Clone(body))
	err := v.Format(
		jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false),
		jsontext.PreserveRawStrings(false), jsontext.ReorderRawObjects(true),
		jsontext.SpaceAfterColon(false), jsontext.SpaceAfterComma(false), jsontext.Multiline(false),
	)
	if err != nil {
		return nil, fmt.Errorf("bringing a body into canonical form: %w", err)
	}
	return canonicalNumbers(v), nil
}

// canonicalNumbers respells the numbers of compact JSON.
func canonicalNumbers(compact []byte) []byte {
	out := make([]byte, 0, len(compact))
	for i := 0; i < len(compact); {
		end := i + 1
		switch c := compact[i]; {
		case c == '"':
			end = endOfString(compact, i)
			out = append(out, compact[i:end]...)
		case c == '-' || c >= '0' && c <= '9':
			end = endOfNumber(compact, i)
			out = appendNumber(out, compact[i:end])
		default:
			out = append(out, c)
		}
		i = end
	}
	return out
}

func endOfString(b []byte, start int) int {
	for i := start + 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

func endOfNumber(b []byte, start int) int {
	end := start
	for end < len(b) && bytes.IndexByte([]byte("+-.0123456789eE"), b[end]) >= 0 {
		end++
	}
	return end
}

// appendNumber spells a number as its digits without zeros at either end, and the power of ten that they are to be
// multiplied with where it is not zero: 1200, 12e2 and 1.2e3 are all 12e2. Zero has no sign.
func appendNumber(out, number []byte) []byte {
	negative := number[0] == '-'
	mantissa, exponent := bytes.TrimPrefix(number, []byte("-")), new(big.Int)
	if e := bytes.IndexAny(mantissa, "eE"); e >= 0 {
		exponent.SetString(string(bytes.TrimPrefix(mantissa[e+1:], []byte("+"))), 10)
		mantissa = mantissa[:e]
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	exponent.Sub(exponent, big.NewInt(int64(len(fraction))))
	digits := bytes.TrimLeft(append(bytes.Clone(whole), fraction...), "0")
	significant := bytes.TrimRight(digits, "0")
	if len(significant) == 0 {
		return append(out, '0')
	}
	exponent.Add(exponent, big.NewInt(int64(len(digits)-len(significant))))
	if negative {
		out = append(out, '-')
	}
	out = append(out, significant...)
	if exponent.Sign() == 0 {
		return out
	}
	return exponent.Append(append(out, 'e'), 10)
}
