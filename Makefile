# What there is to do; `make` alone lists it.

.DEFAULT_GOAL := help
.PHONY: help run test bench images-test fmt lint

help: ## list what there is to do
	@awk -F ': ## ' '/^[a-z-]+: ## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

run: ## build and start everything, ready to sign in; Ctrl-C ends it
	@exec scripts/run

test: ## run every test; installs what they need where it can
	scripts/install-test-tools
	cargo test --workspace --locked
	scripts/check-manifests

bench: ## measure the proxy beside nginx
	scripts/install-test-tools
	cargo run --release --locked -p bench

images-test: ## build the container images and sign in through Compose
	scripts/images-test

fmt: ## format the sources
	cargo fmt

lint: ## everything a reviewer's tools would say
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
