package app

import (
	"net/url"
	"strings"
)

// hidden stands where a secret was.
const hidden = "xxxxx"

// secretParams are the query parameters of database URLs that hold secrets, and of brokers'.
func secretParams() []string {
	return []string{"password", "sslpassword", "passfile", "token", "jwt", "nkey"}
}

// Redact gives a URL, or a list of them separated by commas, without its passwords. What is no URL that can be read
// is hidden as a whole, as nobody can say where in it the secret stands.
func Redact(s string) string {
	if !strings.ContainsAny(s, ":/@=") {
		return s
	}
	var shown []string
	for _, one := range splitURLs(s) {
		shown = append(shown, redactURL(one))
	}
	return strings.Join(shown, ",")
}

// splitURLs splits a list of URLs at its commas; a text with a comma elsewhere, as in a password, stays whole.
func splitURLs(s string) []string {
	list := strings.Split(s, ",")
	for i, one := range list {
		list[i] = strings.TrimSpace(one)
		if !strings.Contains(one, "://") {
			return []string{s}
		}
	}
	return list
}

func redactURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" {
		return hidden
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), hidden)
	} else if u.User != nil && u.Scheme != "postgres" && u.Scheme != "postgresql" {
		u.User = url.User(hidden) // a broker takes a lone user for a token
	}
	query := u.Query()
	for _, name := range secretParams() {
		if query.Has(name) {
			query.Set(name, hidden)
			u.RawQuery = query.Encode()
		}
	}
	return u.String()
}
