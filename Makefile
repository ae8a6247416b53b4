# Needs python3, git and make; `make setup` installs everything else.

.POSIX:
.NOTPARALLEL:
.DEFAULT_GOAL := help

# Ansible refuses to start without a UTF-8 locale, and a fresh machine may have none configured.
export LC_ALL := C.UTF-8
export PATH := $(CURDIR)/.venv/bin:$(PATH)

STAMP := .venv/.complete
COLLECTION := .collections/ansible_collections/gpufleet/models

.PHONY: help setup demo lint sanity docs compiler unit hub integration hosts test test-matrix bench build clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

setup: $(STAMP) ## make .venv with everything that the other targets need

$(STAMP): tests/tools/setup.sh tests/tools/apt-install.sh $(wildcard requirements/*.txt)
	sh tests/tools/setup.sh
	touch $@

demo: setup ## put real models on this machine with site.yml, from a local Hub
	python -m tests.demo

lint: setup ## ruff, mypy, yamllint, ansible-lint, changelog fragments, shellcheck
	ruff check
	ruff format --check
	mypy -p ansible_collections.gpufleet.models.plugins.module_utils \
	     -p ansible_collections.gpufleet.models.plugins.modules
	yamllint --strict .
	ansible-lint
	antsibull-changelog lint
	shellcheck $$(git ls-files -co --exclude-standard -- '*.sh' .ci/run)

sanity: setup ## ansible-test sanity, all tests, no ignore file
	python tests/tools/sanity.py

# antsibull-docs leaves its log in the home directory, and refuses to write where a group may write.
docs: setup ## check the documentation of plugins and roles strictly, and render it into .cache/docs
	mkdir -p -m 755 .cache/docs
	HOME=.cache/docs antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs all \
	    --disallow-unknown-collection-refs --check-extra-docs-refs $(COLLECTION)
	HOME=.cache/docs antsibull-docs collection --use-current --fail-on-error --cleanup everything \
	    --dest-dir .cache/docs gpufleet.models

# A library that answers in the place of NVIDIA's is compiled by the tests.
compiler:
	command -v gcc >/dev/null && echo '#include <stdio.h>' | gcc -E - >/dev/null || \
	    sh tests/tools/apt-install.sh gcc libc6-dev

unit: setup compiler ## tests of the engine and the modules
	pytest tests/unit

hub: setup ## tests of the local Hub against the official client
	pytest tests/hub

integration: setup compiler ## tests of modules, role and playbooks through ansible-playbook
	pytest tests/integration

# Containers get addresses of their own, which needs root, or sudo without a password.
hosts: setup ## tests of the roles on real hosts: containers with systemd, over SSH
	molecule test --scenario-name hosts --scenario-name python

test: lint sanity docs unit hub integration hosts ## everything that must pass before a commit

test-matrix: setup compiler ## unit and integration tests on every supported ansible-core and Python found here
	python tests/tools/matrix.py

bench: setup ## measure against hf, aria2c and get_url
	command -v aria2c >/dev/null || sh tests/tools/apt-install.sh aria2
	python -m tests.bench

build: setup ## the archive that ansible-galaxy installs, into .cache/dist
	ansible-galaxy collection build --force --output-path .cache/dist

clean: ## remove everything that is made here, the demo's store too
	if command -v podman >/dev/null; then sh tests/hosts/clean.sh; fi
	rm -rf .venv .collections .cache .demo .ansible
