# PaddockDB. `make help` says what there is.
#
# Every step builds with the same profile and flags, so that nothing is compiled twice: `make run` and
# `make test` share their build, and what cargo checks for clippy it reuses for rustdoc.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# dev is quick to build, release quick to run: make run PROFILE=release
PROFILE ?= dev
TARGET_DIR := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
CARGO ?= cargo

.PHONY: help
help: ## Say what there is
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: build ## Build and start a whole cluster in one process; data in ./paddock-data (other flags: ARGS="--data DIR")
	@exec $(TARGET_DIR)/paddock dev $(ARGS)

.PHONY: test
test: setup ## Install what is missing, then run every test, a small acceptance test on a real cluster included
	$(CARGO) test --workspace --locked
	$(CARGO) test --package paddock-sim --features mutations --test mutations --locked
	$(CARGO) test --package paddock-partition --features mutations --test replica --locked broken
	$(CARGO) build --workspace --locked --quiet
	scripts/acceptance.py --paddock target/debug/paddock
	scripts/faults.py --paddock target/debug/paddock
	$(CARGO) build --package paddock-client --example steady_load --locked --quiet
	$(CARGO) build --package paddock-client --example chaos_load --locked --quiet
	$(CARGO) build --package paddock-client --example once_load --locked --quiet
	scripts/handover.py --paddock target/debug/paddock --transfers 6 --settle-seconds 0.3
	scripts/once.py --paddock target/debug/paddock --kills 4
	scripts/failover.py --paddock target/debug/paddock --kills 2 --hangs 1
	scripts/chaos.py --paddock target/debug/paddock --seconds 60 --network auto --zookeepers 3
	scripts/damage.py --paddock target/debug/paddock

.PHONY: verify
verify: ## Check format, lints, docs and .proto files; changes no source
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet
	@scripts/buf-lint
	@scripts/deny

.PHONY: fix
fix: ## Format, and apply what clippy can apply by itself
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged -- -D warnings

.PHONY: setup
setup: ## Install what the tests need and is missing (Java, ZooKeeper); says what to do where it cannot
	@scripts/setup

.PHONY: build
build: ## Build the paddock command (PROFILE=release: optimised)
	$(CARGO) build --package paddock --locked --profile $(PROFILE)

.PHONY: bench
bench: ## Run the benchmarks
	$(CARGO) bench --workspace --locked

.PHONY: bench-engines
bench-engines: ## Compare the storage engine with RocksDB, fjall, redb, LMDB and sled; 20 minutes (flags: ARGS="--rounds 7")
	@CARGO="$(CARGO)" scripts/bench-engines $(ARGS)

.PHONY: cluster
cluster: setup build ## Start a real local cluster: ZooKeeper, four partition servers, a router; data in .local/cluster
	@exec scripts/cluster.py up --paddock $(TARGET_DIR)/paddock

.PHONY: acceptance
acceptance: setup ## Load the whole package index into a real cluster, kill a leader, restart, compare; takes a minute or two
	$(CARGO) build --package paddock --locked --release
	scripts/acceptance.py --all --paddock target/release/paddock

.PHONY: chaos
chaos: setup ## Kill and freeze a real cluster at random for a while, and judge every read (other flags: ARGS="--seconds 600 --network --zookeepers 3")
	$(CARGO) build --package paddock --locked
	$(CARGO) build --package paddock-client --example chaos_load --locked
	scripts/chaos.py --paddock target/debug/paddock $(ARGS)

.PHONY: once
once: setup ## Kill leaders under writes with request ids, each of which must happen exactly once (KILLS=50 SEED=...)
	$(CARGO) build --package paddock --locked
	$(CARGO) build --package paddock-client --example once_load --locked
	scripts/once.py --paddock target/debug/paddock --kills $(or $(KILLS),50) $(if $(SEED),--seed $(SEED))

.PHONY: sim
sim: ## Simulate clusters under faults, one for each seed (SEEDS=2000 FIRST=0; SEED=7: that one again, with its trace)
	$(CARGO) run --package paddock-sim --profile sim --locked --quiet -- --seeds $(or $(SEEDS),2000) --first $(or $(FIRST),0) \
		$(if $(SEED),--seed $(SEED)) $(if $(LINES),--lines $(LINES))

.PHONY: handover
handover: setup build ## Restart every server and hand over under load, and measure the pauses (flags: ARGS="--rounds 3 --transfers 500")
	$(CARGO) build --package paddock-client --example steady_load --locked --profile $(PROFILE)
	scripts/handover.py --paddock $(TARGET_DIR)/paddock --load $(TARGET_DIR)/examples/steady_load $(ARGS)

.PHONY: failover
failover: setup build ## Kill, hang and cut off leaders under load, and measure the pauses (flags: ARGS="--kills 100 --hangs 30 --cuts 30")
	$(CARGO) build --package paddock-client --example steady_load --locked --profile $(PROFILE)
	scripts/failover.py --paddock $(TARGET_DIR)/paddock --load $(TARGET_DIR)/examples/steady_load $(ARGS)

.PHONY: rebuild
rebuild: ## Rebuild a lost replica beside a writer, and print how fast that was and what the writer saw (MIB=1024 ROUNDS=3 RATE=256)
	PADDOCK_REBUILD_MIB=$(or $(MIB),1024) PADDOCK_REBUILD_ROUNDS=$(or $(ROUNDS),3) \
		$(if $(RATE),PADDOCK_REBUILD_MIB_PER_SECOND=$(RATE)) \
		$(CARGO) test --package paddock-partition --release --locked --test cluster -- \
		--ignored --nocapture --exact catch_up::measure_a_rebuild_under_load

.PHONY: sim-rules
sim-rules: ## Break each rule of the replication protocol, and see the simulation notice
	$(CARGO) test --package paddock-sim --features mutations --test mutations --profile sim --locked -- --include-ignored --nocapture

.PHONY: torture
torture: ## Kill a writing process hundreds of times, and cut its file system's power (ROUNDS=300 CUTS=50 SEED=...; root for the cuts)
	PADDOCK_TORTURE_ROUNDS=$(or $(ROUNDS),300) PADDOCK_TORTURE_CUTS=$(or $(CUTS),50) PADDOCK_TORTURE_SEED=$(SEED) \
		$(CARGO) test --package paddock-storage --test torture --locked -- --include-ignored --nocapture --test-threads 1

.PHONY: fuzz
fuzz: ## Fuzz what reads files and peers, each target for SECONDS=60 (TARGETS="log run": only these); needs a nightly compiler
	@CARGO="$(CARGO)" SECONDS_EACH=$(or $(SECONDS),60) scripts/fuzz $(TARGETS)

.PHONY: clean
clean: ## Remove what was built and what the tests left; your data in ./paddock-data stays
	$(CARGO) clean
	rm -rf .local
