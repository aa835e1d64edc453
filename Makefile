# The version that redbouncer version shows; a release sets it to its tag.
VERSION ?=
LINT     = go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 10s
BENCHOUT ?= bench/out
DIST     ?= dist

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## build the program, static, as ./redbouncer
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o redbouncer ./cmd/redbouncer

.PHONY: test
test: ## run the tests (they need redis-server)
	go test ./...

.PHONY: race
race: ## run the tests under the race detector
	go test -race ./...

.PHONY: lint
lint: ## run go vet and the linters
	go vet ./...
	$(LINT) run

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME
	.ci/fuzz $(FUZZTIME)

.PHONY: bench
bench: ## measure the proxy beside Redis and other proxies; some seven minutes, report in BENCHOUT
	go run ./bench --out $(BENCHOUT)

.PHONY: release
release: ## build archives, checksums and SBOMs of the commit as VERSION, into DIST
	.ci/release "$(VERSION)" "$(DIST)"

.PHONY: check
check: ## do everything that has to hold before a change lands
	.ci/run
