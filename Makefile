# Everything a person does with this repository. `make` alone lists the targets.

CARGO ?= cargo
# What the tests of foreign clients need is installed here, outside the tree that git sees.
CLIENTS := target/test-clients
# And here the other servers that `make test-servers` is about.
SERVERS := target/test-servers
# `make test` ends all tests after this time; the output names a test that hangs as running for over a minute.
TEST_TIME ?= 60m

.DEFAULT_GOAL := help
.PHONY: help run build test test-servers unit sim sim-nodes transcripts soak hostile soak-hostile kills crossing lint bench relay perf perf-check profile doc clean \
	install-counters install-test-clients install-redis

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

run: build ## build and start a bus on 127.0.0.1:9100, with no configuration at all
	@echo
	@echo "Try this in other terminals (Ctrl-C here stops the bus):"
	@echo "  target/release/arqonbus sub science:general"
	@echo "  target/release/arqonbus pub science:general '{\"text\": \"hello\"}'"
	@echo "  target/release/arqonbus status"
	@echo "  curl http://127.0.0.1:9102/metrics"
	@echo
	target/release/arqonbus serve

build: ## build the release binary, target/release/arqonbus
	$(CARGO) build --release

test: install-test-clients install-redis ## install what the tests need, then run all of them
	ARQONBUS_TEST_CLIENTS=$(abspath $(CLIENTS)) timeout $(TEST_TIME) $(CARGO) test --lib --test '*' --example relay

# Neither is built with TLS, and Redis 6.2 can't be made to read its files slowly.
test-servers: install-redis ## test the storage with Redis 6.2 and with Valkey, too
	@tests/redis/install-servers $(SERVERS)
	ARQONBUS_TEST_REDIS_SERVER=$(abspath $(SERVERS))/redis-server \
	  $(CARGO) test --test storage -- --skip tls:: --skip still_reads_its_own_files
	ARQONBUS_TEST_REDIS_SERVER=$(abspath $(SERVERS))/valkey-server \
	  $(CARGO) test --test storage -- --skip tls::

unit: ## run the unit tests alone
	$(CARGO) test --lib

sim: ## replay one seed of the simulator of one node: make sim SEED=7 (TRACE=1 prints every step)
	SIM_SEED=$(or $(SEED),1) $(if $(TRACE),SIM_TRACE=1) \
	  $(CARGO) test --test sim -- --nocapture --exact every_seed_keeps_the_rules

sim-nodes: ## the same of several nodes: make sim-nodes SEED=7
	NODES_SEED=$(or $(SEED),1) $(if $(TRACE),NODES_TRACE=1) \
	  $(CARGO) test --test sim -- --nocapture --exact every_seed_keeps_the_rules_of_several_nodes

transcripts: ## write tests/conformance/transcripts anew; what git then shows is a change of the protocol
	ARQONBUS_WRITE_TRANSCRIPTS=1 $(CARGO) test --test conformance on_one_shard

soak: ## run many seeds of both simulators: make soak SEEDS=20000 FIRST=1
	SIM_SEEDS=$(or $(SEEDS),20000) SIM_FIRST=$(or $(FIRST),1) \
	  NODES_SEEDS=$(or $(SEEDS),20000) NODES_FIRST=$(or $(FIRST),1) \
	  $(CARGO) test --release --test sim every_seed -- --nocapture

hostile: build ## attack the release binary in every way; others may wait 2 ms (p50) and 20 ms (p99)
	ARQONBUS_TEST_PROGRAM=$(abspath target/release/arqonbus) \
	  $(CARGO) test --test hostile strict::what_others_wait -- --ignored --nocapture

soak-hostile: build install-redis ## hostile and ordinary load together, for MINUTES on one node and on three
	ARQONBUS_TEST_PROGRAM=$(abspath target/release/arqonbus) HOSTILE_MINUTES=$(or $(MINUTES),60) \
	  $(CARGO) test --test hostile soak::run -- --nocapture --test-threads 1

kills: install-redis ## kill the bus, nodes of it and Redis under load and print the ledgers: make kills KILLS=50
	DURABLE_KILLS=$(or $(KILLS),50) $(CARGO) test --test bus -- --nocapture what_was_acknowledged

crossing: ## count the messages between shards for each publish, on 1 to 64 shards
	SIM_PUBLISHES=$(or $(PUBLISHES),2000) $(CARGO) test --test sim messages_between_shards -- --nocapture

fuzz: ## fuzz every parser and whole sessions: make fuzz SECONDS=600 (for each target)
	@tests/fuzz/run $(or $(SECONDS),60)

lint: ## check the format and run clippy; a warning is an error
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings

bench: ## run the benchmarks
	$(CARGO) bench

relay: ## build the measuring stick, target/release/examples/relay
	$(CARGO) build --release --example relay

perf: install-counters ## count instructions and system calls a message; writes benches/perf.txt
	$(CARGO) build --release --bin arqonbus --example perf
	target/release/examples/perf

perf-check: install-counters ## the same; fails if instructions grew against what is committed
	$(CARGO) build --release --bin arqonbus --example perf
	target/release/examples/perf check

profile: install-counters ## show where the instructions of an input go: make profile INPUT=fanout
	$(CARGO) build --release --example perf
	target/release/examples/perf profile $(or $(INPUT),fanout)

doc: ## build the API documentation, target/doc/arqonbus
	$(CARGO) doc --no-deps --lib

clean: ## delete everything that was built or installed for tests
	$(CARGO) clean

install-counters:
	@benches/perf/install

install-test-clients:
	@tests/clients/install $(CLIENTS)

install-redis:
	@tests/redis/install
