// Package storetest has the conformance suites of the stores: one function for each contract, called by the tests of
// every store with a function that makes an empty one.
package storetest
