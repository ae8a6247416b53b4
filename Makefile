# Needs python3, git and make; `make setup` installs everything else.

.POSIX:
.DEFAULT_GOAL := help

# Ansible refuses to start without a UTF-8 locale, and a fresh machine may have none configured.
export LC_ALL := C.UTF-8
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# One process for each core, and each file of tests by one of them.
PARALLEL := --numprocesses auto --dist loadfile

STAMP := .venv/.complete
INFERENCE := .cache/inference/.complete
INFERENCE_CUDA := .cache/inference-cuda/.complete
PROMETHEUS := .cache/prometheus/.complete
COLLECTION := .collections/ansible_collections/gpufleet/models

.PHONY: help setup inference inference-cuda demo lint sanity docs compiler sshd unit hub integration report smoke \
    smoke-cuda hosts test test-fleet test-matrix bench bench-fleet build clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

setup: $(STAMP) ## make .venv with everything that the other targets need

$(STAMP): tests/tools/setup.sh tests/tools/apt-install.sh $(wildcard requirements/*.txt)
	sh tests/tools/setup.sh
	touch $@

inference: $(INFERENCE) ## make .cache/inference with what loads and runs models, 1.8 GB

inference-cuda: $(INFERENCE_CUDA) ## make .cache/inference-cuda with what a host with a GPU has, 5 GB

# The stamp is written last: an environment that was not finished is made anew.
$(INFERENCE): requirements/smoke.txt requirements/smoke-constraints.txt | $(STAMP)
	.venv/bin/python -m venv --clear .cache/inference
	.cache/inference/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/smoke.txt
	touch $@

$(INFERENCE_CUDA): requirements/smoke-cuda.txt requirements/smoke-constraints.txt | $(STAMP)
	.venv/bin/python -m venv --clear .cache/inference-cuda
	.cache/inference-cuda/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/smoke-cuda.txt
	touch $@

# Prometheus' own tools judge what hosts tell it.
$(PROMETHEUS): tests/tools/prometheus.sh
	sh tests/tools/prometheus.sh
	touch $@

demo: setup ## put real models on this machine with site.yml, from a local Hub
	python -m tests.demo

lint: setup ## ruff, mypy, yamllint, ansible-lint, changelog fragments, shellcheck
	ruff check
	ruff format --check
	mypy -p ansible_collections.gpufleet.models.plugins.module_utils \
	     -p ansible_collections.gpufleet.models.plugins.modules \
	     -p ansible_collections.gpufleet.models.plugins.plugin_utils \
	     -p ansible_collections.gpufleet.models.plugins.callback \
	     -p ansible_collections.gpufleet.models.plugins.filter \
	     -p ansible_collections.gpufleet.models.plugins.lookup
	yamllint --strict .
	ansible-lint
	antsibull-changelog lint
	shellcheck $$(git ls-files -co --exclude-standard -- '*.sh' .ci/run tests/gpu/run)

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
	pytest $(PARALLEL) tests/unit

hub: setup ## tests of the local Hub against the official client
	pytest tests/hub

# Some hosts of the tests are reached through an sshd on loopback.
sshd:
	test -x /usr/sbin/sshd || sh tests/tools/apt-install.sh openssh-server

integration: setup compiler sshd $(PROMETHEUS) ## tests of modules, role and playbooks through ansible-playbook
	pytest $(PARALLEL) tests/integration

report: setup ## tests of the report's page in a real browser
	command -v chromium >/dev/null || sh tests/tools/apt-install.sh chromium fonts-dejavu-core
	pytest tests/report

smoke: setup inference compiler ## tests that load and run models: smoke tests, conversions, checks of GPUs
	pytest $(PARALLEL) tests/smoke -m "not cuda"

smoke-cuda: setup inference inference-cuda ## those of them that take what a host with a GPU has
	pytest tests/smoke -m cuda

# Containers get addresses of their own, which needs root, or sudo without a password.
hosts: setup ## tests of roles and playbooks on real hosts: containers with systemd, over SSH
	sh tests/hosts/run.sh "hosts default" "python rollback"

test-fleet: setup ## tests of rollouts over many such hosts, and of a store that an earlier version wrote
	sh tests/hosts/run.sh fleet upgrade

test: lint sanity docs unit hub integration report smoke hosts ## everything that must pass before a commit

test-matrix: setup compiler sshd $(PROMETHEUS) ## unit and integration tests on every supported ansible-core and Python found here
	python tests/tools/matrix.py $(PARALLEL)

bench: setup inference ## measure against hf, aria2c, get_url, pip and plain scripts
	command -v aria2c >/dev/null || sh tests/tools/apt-install.sh aria2
	python -m tests.bench

bench-fleet: setup ## measure what 1 to 32 hosts cost the control node, against get_url and stat
	python -m tests.bench.fleet

build: setup ## the archive that ansible-galaxy installs, into .cache/dist
	ansible-galaxy collection build --force --output-path .cache/dist

clean: ## remove everything that is made here, the demo's store too
	if command -v podman >/dev/null; then sh tests/hosts/clean.sh; fi
	rm -rf .venv .collections .cache .demo .ansible
