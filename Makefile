# What there is to do; `make` alone lists it.

.DEFAULT_GOAL := help
.PHONY: help run test bench bench-quick bench-sessions bench-orchestrator images-test fmt lint

help: ## list what there is to do
	@awk -F ': ## ' '/^[a-z-]+: ## / { printf "make %-18s %s\n", $$1, $$2 }' Makefile

run: ## build and start everything, ready to sign in; Ctrl-C ends it
	@exec scripts/run

test: ## run every test; installs what they need where it can
	scripts/install-test-tools
	cargo test --workspace --locked --no-fail-fast
	@if [ -n "$$CI" ] || python3 -c 'import ensurepip, venv' 2>/dev/null; then \
	    scripts/check-manifests; \
	else \
	    echo "SKIPPED scripts/check-manifests: python3 with venv is missing: run scripts/install-test-tools" >&2; \
	fi

bench: ## measure every row of docs/performance.md, beside nginx and the peers that can be had; up to an hour
	scripts/bench-peers table --rounds 5 --seconds 2

bench-quick: ## one session beside nginx, in a minute
	scripts/install-test-tools
	cargo build --release --locked -p bench
	target/release/bench --sidegate "$$(scripts/build-release)" --rounds 5 --seconds 3

bench-sessions: ## measure sessions: memory, look-ups, sign-ins
	scripts/install-test-tools
	cargo build --release --locked -p bench
	target/release/bench sessions --sidegate "$$(scripts/build-release)"

# What it is compared with: the orchestrator before clusters could decide by person.
BEFORE ?= f406b90

bench-orchestrator: ## measure the orchestrator with 100 clusters, beside an earlier build
	@before=$$(scripts/build-before $(BEFORE) orchestrator) && \
	cargo build --release --locked -p orchestrator && cargo build --release --locked -p bench && \
	nice -n 5 target/release/bench-orchestrator $${before:+--before "$$before"}

images-test: ## build the container images and sign in through Compose, also with three replicas
	scripts/images-test

fmt: ## format the sources
	cargo fmt

lint: ## everything a reviewer's tools would say
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
