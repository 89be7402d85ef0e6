package problem

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
)

// ReadBody reads the whole JSON body of r, at most limit bytes. A request without Content-Type is taken as JSON.
// The problem is nil when there is none.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, *Problem) {
	if p := checkMediaType(r.Header.Get("Content-Type")); p != nil {
		return nil, p
	}
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close") // rather than read what nobody wants
		return nil, tooLarge(limit)
	}
	body, err := readAll(http.MaxBytesReader(w, r.Body, limit), r.ContentLength)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge(limit)
	case err != nil:
		return nil, New(BadRequest, "the body ended early or could not be read")
	}
	return body, nil
}

func readAll(body io.Reader, size int64) ([]byte, error) {
	if size < 0 {
		return io.ReadAll(body)
	}
	buf := make([]byte, size)
	_, err := io.ReadFull(body, buf)
	return buf, err
}

func tooLarge(limit int64) *Problem {
	return New(BodyTooLarge, fmt.Sprintf("at most %d bytes are taken", limit))
}

func checkMediaType(contentType string) *Problem {
	if contentType == "" {
		return nil
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || media != "application/json" {
		return New(UnsupportedMediaType, "send Content-Type: application/json")
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return New(UnsupportedMediaType, "JSON is UTF-8")
	}
	return nil
}
