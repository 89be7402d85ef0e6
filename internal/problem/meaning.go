package problem

// Meaning documents a code for those who meet it.
type Meaning struct {
	Code Code
	// When says what leads to it, Do what to do about it.
	When, Do string
}

// Meanings lists what each code means, in the order of Codes.
func Meanings() []Meaning {
	const again = "Wait for `retry_after`, then send the same request again, with the same idempotency key."
	return []Meaning{
		{BadRequest, "A part of the request other than what its JSON says is not what it must be: the path, a parameter, the Host, a body that ended early.", "Correct what `detail` names; the same request fails again."},
		{InvalidBody, "The body is JSON, and values in it are missing, unknown or out of range.", "Correct every entry of `errors`: `pointer` says where (RFC 6901), `code` and `detail` say what."},
		{MalformedJSON, "The body is not JSON as strictly read: a syntax error, a name twice, text that is not UTF-8.", "Correct the encoder; `detail` says where it went wrong."},
		{KeyMissing, "An order came without the header Idempotency-Key.", "Send a fresh key with every intention, and the same key with its repetitions."},
		{KeyInvalid, "The key is not 1 to 255 visible ASCII characters, or was sent more than once.", "Send one key, a UUID for example."},
		{NotFound, "Nothing is at this path, or nothing is known under this name.", "Check the path and the id."},
		{MethodNotAllowed, "The path is known, under another method.", "Use one of those in the header Allow."},
		{KeyInFlight, "A request with the same key has not been answered yet.", again},
		{BodyTooLarge, "The body has more bytes than are taken.", "Send less; `detail` has the limit."},
		{UnsupportedMediaType, "The Content-Type is neither absent nor application/json in UTF-8.", "Send `Content-Type: application/json`."},
		{KeyReused, "The key was used before, for a request with other content. Nothing was changed.", "Use a fresh key for another intention. If the first request was meant, send that one."},
		{Internal, "The server has met a bug of its own, which it has logged.", "Look into the server's log. To repeat an order with the same key is safe."},
		{Overloaded, "As many requests are in flight, or wait, as the server takes.", again},
		{Unavailable, "The database did not take it, or could not be asked. An order may have been accepted nevertheless.", again},
		{ShuttingDown, "Kept for a server that is stopping and still answers; `mainstay serve` takes no connection by then.", again},
	}
}
