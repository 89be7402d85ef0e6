package problem

import (
	"net/http"
	"strings"
)

// Code names a kind of problem: stable, snake case. It is the extension member "code", and makes the type URI.
type Code string

// Codes.
const (
	BadRequest           Code = "bad_request"
	InvalidBody          Code = "invalid_body"
	MalformedJSON        Code = "malformed_json"
	KeyMissing           Code = "idempotency_key_missing"
	KeyInvalid           Code = "idempotency_key_invalid"
	NotFound             Code = "not_found"
	MethodNotAllowed     Code = "method_not_allowed"
	KeyInFlight          Code = "idempotency_key_in_flight"
	BodyTooLarge         Code = "body_too_large"
	UnsupportedMediaType Code = "unsupported_media_type"
	KeyReused            Code = "idempotency_key_reused"
	Internal             Code = "internal_error"
	Overloaded           Code = "overloaded"
	Unavailable          Code = "unavailable"
	ShuttingDown         Code = "shutting_down"
)

// typeBase is an identifier, not a place that must answer.
const typeBase = "https://mainstay.dev/problems/"

// Codes lists all codes, for documentation and its tests.
func Codes() []Code {
	return []Code{
		BadRequest, InvalidBody, MalformedJSON, KeyMissing, KeyInvalid, NotFound, MethodNotAllowed, KeyInFlight,
		BodyTooLarge, UnsupportedMediaType, KeyReused, Internal, Overloaded, Unavailable, ShuttingDown,
	}
}

// Type is the URI that identifies the kind of problem.
func (c Code) Type() string { return typeBase + strings.ReplaceAll(string(c), "_", "-") }

// Status is the HTTP status that goes with the code.
func (c Code) Status() int {
	status, _ := c.describe()
	return status
}

// Title is the same for every problem of the code.
func (c Code) Title() string {
	_, title := c.describe()
	return title
}

func (c Code) describe() (status int, title string) {
	switch c {
	case BadRequest:
		return http.StatusBadRequest, "The request is not valid"
	case InvalidBody:
		return http.StatusBadRequest, "The body has mistakes"
	case MalformedJSON:
		return http.StatusBadRequest, "The body is not strict JSON"
	case KeyMissing:
		return http.StatusBadRequest, "The Idempotency-Key header is missing"
	case KeyInvalid:
		return http.StatusBadRequest, "The Idempotency-Key header is not valid"
	case NotFound:
		return http.StatusNotFound, "There is no such resource"
	case MethodNotAllowed:
		return http.StatusMethodNotAllowed, "The resource does not have this method"
	case KeyInFlight:
		return http.StatusConflict, "A request with this idempotency key is being worked on"
	case BodyTooLarge:
		return http.StatusRequestEntityTooLarge, "The body is too large"
	case UnsupportedMediaType:
		return http.StatusUnsupportedMediaType, "The body must be application/json"
	case KeyReused:
		return http.StatusUnprocessableEntity, "The idempotency key was used for another request"
	case Overloaded:
		return http.StatusServiceUnavailable, "The server has as much work as it takes"
	case Unavailable:
		return http.StatusServiceUnavailable, "The server cannot do this now"
	case ShuttingDown:
		return http.StatusServiceUnavailable, "The server is stopping"
	default:
		return http.StatusInternalServerError, "The server made a mistake"
	}
}
