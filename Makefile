# make demo    run the demo
# make test    everything: installs what a fresh Debian machine with Go lacks, then the whole suite
# make bench   benchmarks beside the code, then ours against the floor: writes docs/performance.md (SIZE=1000000: also with so many live grants)
# make chaos   every fault 20 times, about an hour, as root; goes on where it was stopped: writes docs/faults.md
# make revocation-report   how soon revoked keys are refused, whatever fails, 12 minutes, as root: writes docs/revocation-report.md (QUICK=1: 3 minutes)
# make lint    gofmt, go vet, staticcheck

GO ?= go
export TEST_GRANTWAY_ALL = 1

.PHONY: demo test tools lint bench chaos revocation-report

demo:
	@$(GO) version >/dev/null 2>&1 || { echo "The demo needs Go 1.26: see https://go.dev/dl/"; exit 1; }
	@echo "Building (the first time takes a minute or two: the packages are named as they are built)"
	@mkdir -p .cache && $(GO) build -v -o .cache/grantway ./cmd/grantway
	@exec .cache/grantway demo

tools:
	@./tools.sh

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "gofmt would change these"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

test: tools lint
	$(GO) test -count=1 -parallel 4 -timeout 15m ./internal/sqlstore $$($(GO) list ./... | grep -v internal/chaos) # the longest first; it waits more than it computes
	$(GO) test -count=1 -timeout 15m ./internal/chaos # by itself: it measures how soon the service is back
	$(GO) test -race -parallel 4 -skip '$(ONE_BY_ONE)' -timeout 15m ./internal/oauth ./internal/people ./internal/sqlstore ./internal/endpoint ./resource

# What the race detector is spared: tests in which one thing is done after another, which it
# makes ten times as slow and in which it can find nothing, and all that goes through PgBouncer.
# Go heeds the first of these that fits the beginning of a name: those with a / come last.
GROUPS = Decisions|Grants|Codes|Families|Refresh|Clients|Guesses|People|APIs|Events|Status|Lists|Sweep|Ended|Text
ONE_BY_ONE = PgBouncer|TestSweep_(TheDatabaseStaysFlat|ABacklogCostsFewEvents|AsksIndexesOnly)|TestMove_|TestCopy_|TestRestore_|TestOpen_|TestSchema_|TestEvents_|TestSQLite_(BytesWritten|TheLogStaysSmall)|TestNewEpoch_HoldsNoChain|TestPostgres_AGivenUpEpochIsRetried|TestModel_Followed|Test/PgBouncer|TestOAuthStorage/.*/($(GROUPS))$$

bench: tools
	$(GO) test -run '^$$' -bench . -benchmem ./internal/oauth ./internal/sqlstore ./internal/endpoint ./resource
	$(GO) run ./internal/bench -o docs/performance.md $(if $(SIZE),-n $(SIZE))

chaos: tools
	@mkdir -p .cache
	$(GO) run ./internal/chaos -state .cache/chaos.jsonl -o docs/faults.md

revocation-report: tools
	$(GO) run ./internal/chaos -revocations -o docs/revocation-report.md $(if $(QUICK),-quick -rounds 3)
