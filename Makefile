# What a person types here. `make` alone lists it.
SHELL := /bin/sh
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
TESTBED := $(TARGET)/debug/isthmus-testbed
# nft, ip and mariadbd are there, and not in every user's PATH.
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help needs peers build demo demo-sh demo-host demo-stop test bench-gateway bench-xds kube-assets fmt lint

help:
	@echo 'make demo                 tell and check the story: two clusters, three networks, a VM (KEEP=1: stay up;'
	@echo '                          BREAK=federation|gateway|dns|capture|trust|registration: break that part;'
	@echo '                          PROXY=envoy|mixed: Envoys beside the agents, or beside every other one)'
	@echo 'make demo-sh HOST=vm      a shell on a host of a demo that stays up (CMD="...": one command)'
	@echo 'make demo-host NAME=mine NETWORK=east'
	@echo '                          add a host to it'
	@echo 'make demo-stop            stop it'
	@echo 'make test                 every test there is'
	@echo 'make bench-gateway         our gateway and sidecars beside Envoy, HAProxy and nginx'
	@echo 'make bench-xds             a control plane under a thousand proxies'
	@echo 'make lint, make fmt       what CI wants of the source'
	@echo 'make kube-assets          build a real Kubernetes API server for the tests (needs Go)'

# Lists what is missing and, for root, installs it.
needs:
	@tests/needs.sh $(TARGET)/debug

# Other people's programs that tests run ours against.
peers:
	@tests/peers.sh $(TARGET)

build:
	@$(CARGO) build --workspace --locked

demo: needs build
	@exec $(TESTBED) demo $(if $(KEEP),--keep) $(if $(BREAK),--break $(BREAK)) $(if $(PROXY),--proxy $(PROXY))

demo-sh:
	@test -n "$(HOST)" || { echo 'which host? make demo-sh HOST=vm'; exit 2; }
	@exec $(TESTBED) sh $(HOST) $(if $(CMD),sh -c '$(CMD)')

demo-host:
	@test -n "$(NAME)" && test -n "$(NETWORK)" || { echo 'which one? make demo-host NAME=mine NETWORK=east'; exit 2; }
	@exec $(TESTBED) add-host $(NAME) $(NETWORK)

demo-stop:
	@exec $(TESTBED) stop

# The scenarios run programs of several packages: cargo builds those for `build` only.
test: needs peers build
	@test -x tests/kube/bin/kube-apiserver || echo 'make test: no tests/kube/bin/kube-apiserver, so nothing is compared with a real one (make kube-assets)'
	@$(CARGO) test --workspace --locked

BENCHED := -p isthmus-bench -p isthmus-primary -p isthmus-eastwest-gw -p isthmus-sidecar -p isthmus-cli

bench-gateway bench-xds:
	@$(CARGO) build --release --locked $(BENCHED)
	@exec $(TARGET)/release/$@ $(ARGS)

kube-assets:
	@exec tests/kube/build.sh

fmt:
	@$(CARGO) fmt

lint:
	@$(CARGO) fmt --check
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
