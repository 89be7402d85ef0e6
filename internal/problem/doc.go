// Package problem is how HTTP handlers of this module read bodies and report errors: RFC 9457 problem documents with
// stable types, and strict JSON, all mistakes of a body at once.
//
// The code of a problem is for programs and never changes its meaning; title and detail are for people. Details
// hold no personal data and nothing that the client did not send or may not know.
package problem
