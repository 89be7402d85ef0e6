# One tool for every machine: `make help` lists what there is. Everything needs Go and nothing else.
SHELL := /bin/bash
.DEFAULT_GOAL := help

TOOL := go tool -modfile=tools/go.mod
FUZZTIME ?= 10s
BENCHTIME ?= 1s

.PHONY: help fmt lint vet test test-short bench fuzz build run ci

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

fmt: ## format the code
	$(TOOL) golangci-lint fmt

lint: ## run the linters (the first time builds them, which takes about two minutes)
	$(TOOL) golangci-lint run

vet: ## run go vet
	go vet ./...

test: ## run all tests with the race detector; says at the end what was skipped and why
	@scripts/test

test-short: ## run the quick tests
	@scripts/test -short ./...

bench: ## run the benchmarks (BENCHTIME=1s each)
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

fuzz: ## run each fuzz target (FUZZTIME=10s each)
	@scripts/fuzz $(FUZZTIME)

build: ## build the binaries into bin/
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

run: ## build and run the all-in-one server on ./mainstay-data
	go run ./cmd/mainstay serve

ci: ## run everything that CI runs
	.ci/run
