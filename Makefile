SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# What checks the chart is large and old in places, so it has an environment of its own; semgrep too.
CHART := .venv-chart
# It would ask at home for a newer self, and tell of what it did.
SEMGREP := PATH="$(CURDIR)/$(CHART)/bin:$$PATH" $(CURDIR)/$(CHART)/bin/semgrep scan --metrics=off --disable-version-check
# Plugins of pytest that come with the checkers are of no use here.
PYTEST_CHART := PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(CHART)/bin/pytest
# What two processes do at once is mostly to wait for others.
PARALLEL := -p xdist.plugin --numprocesses 2 --dist loadgroup
PORT ?= 8080
RATE ?= 20
PYTEST ?=
# Most of the tests wait for real servers, so they are run side by side.
WORKERS ?= 2
RAY ?=

# Ray has an environment of its own: the product reads it over the wire and does not depend on it.
RAY_PINNED := $(lastword $(subst ==, ,$(shell cat requirements/ray.in)))
RAY_VERSION ?= $(RAY_PINNED)
export RAY_VERSION
RAY_HOME := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/almenara/ray-$(RAY_VERSION)
# What it was installed from: a fresh clone finds it there.
RAY_DONE := $(RAY_HOME)/.done-$(if $(filter $(RAY_PINNED),$(RAY_VERSION)),$(firstword $(shell cksum < requirements/ray.txt)),index)

# The newest Python that fits, whatever it is called here.
PYTHON ?= $(shell for it in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$it >/dev/null 2>&1 && $$it -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$it && break; done)

.PHONY: help
help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: run
run: $(VENV)/.run $(if $(RAY),$(RAY_DONE)) ## Run a NATS server, a demo fleet and the dashboard (PORT=8080 RATE=20 RAY=1)
	@exec $(BIN)/almenara demo --port $(PORT) --rate $(RATE) $(if $(RAY),--ray $(RAY_HOME)/bin/ray)

.PHONY: ray
ray: $(RAY_DONE) ## Install a real Ray for its tests, outside of the product's environment

.PHONY: test-ray
test-ray: $(VENV)/.dev $(RAY_DONE) ## Run the tests against a real Ray (PYTEST="-k burst" RAY_VERSION=2.40.0)
	@$(BIN)/pytest tests/ray $(PYTEST)

.PHONY: test
test: $(VENV)/.dev ## Run all the tests, those in a real browser included (PYTEST="-k bus")
	@ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" && export ALMENARA_CHROMIUM && \
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(PYTEST)

.PHONY: test-kubernetes
test-kubernetes: $(VENV)/.dev ## Run the Kubernetes tests, on a kube-apiserver that Go builds once
	tests/kubernetes/build-api-server > /dev/null
	$(BIN)/pytest -k kubernetes $(PYTEST)

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Ask the API much more of what its document says than the tests do (FUZZED=500)
	ALMENARA_FUZZED=$(or $(FUZZED),300) $(BIN)/pytest -s tests/integration/test_api_fuzzed.py

.PHONY: check
check: $(VENV)/.dev ## Check style, types, floors and that the documents are true
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# It warns of each answered line that one of its rules finds nothing in.
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive platform plugins .ci/sbom .ci/audit \
	2> >(grep -v "nosec encountered" >&2)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/almenara config document | diff - docs/configuration.md \
	|| { echo "docs/configuration.md is not what the settings say; run make docs"; exit 1; }
	@$(BIN)/almenara plugins document | diff - docs/plugins/contract.md \
	|| { echo "docs/plugins/contract.md is not what the contract says; run make docs"; exit 1; }

.PHONY: semgrep
semgrep: $(CHART)/.chart ## Check our own rules of safety, and that each of them finds what it is for
	@cd .ci/semgrep && $(SEMGREP) --test --quiet .
	@$(SEMGREP) --quiet --error --config .ci/semgrep/safety.yaml platform plugins

.PHONY: chart
chart: $(CHART)/.chart $(VENV)/.dev ## Write the chart's schema, README and rules from what they follow from
	$(CHART)/bin/python helm/generate.py --almenara $(BIN)/almenara

.PHONY: lint-chart
lint-chart: $(CHART)/.chart $(VENV)/.dev ## Check that the chart follows from the code, and lint it and the Dockerfile
	$(CHART)/bin/python helm/generate.py --almenara $(BIN)/almenara --check
	$(CHART)/bin/hadolint Dockerfile
	$(PYTEST_CHART) tests/chart/test_rendering.py -k "lint or describes or artifact_hub"

.PHONY: test-chart
test-chart: $(CHART)/.chart $(VENV)/.dev ## Test the chart and the image (PYTEST="-k ingress")
	@tests/kubernetes/build-cluster > /dev/null || echo "what needs helm itself is skipped"
	ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" $(PYTEST_CHART) $(PARALLEL) tests/chart $(PYTEST)

.PHONY: bench
bench: $(VENV)/.dev ## Measure ingest, memory, start and queries, each as one line
	$(BIN)/python tests/benchmarks/run.py

.PHONY: bench-fanout
bench-fanout: $(VENV)/.dev $(VENV)/.bench ## Measure live pages for thousands against peers, and write docs/performance.md
	@ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" && export ALMENARA_CHROMIUM \
	&& $(BIN)/python tests/benchmarks/fanout/run.py

.PHONY: fanout
fanout: $(VENV)/.dev ## Check with many viewers that nothing is lost, grows or holds up others
	$(BIN)/python tests/benchmarks/fanout/run.py --short

.PHONY: bench-kubernetes
bench-kubernetes: $(VENV)/.dev ## Measure 5,000 pods in 200 namespaces, idle and changing
	tests/kubernetes/build-api-server > /dev/null
	$(BIN)/python tests/benchmarks/kubernetes_load.py

.PHONY: bench-pages
bench-pages: $(VENV)/.dev ## Measure what the Kubernetes pages cost a browser at 5,000 changing pods
	@ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" $(BIN)/python tests/benchmarks/kubernetes_pages.py

.PHONY: format
format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: docs
docs: $(VENV)/.dev ## Write docs/configuration.md and docs/plugins/contract.md from the code
	$(BIN)/almenara config document > docs/configuration.md
	$(BIN)/almenara plugins document > docs/plugins/contract.md

.PHONY: screenshots
screenshots: $(VENV)/.dev ## Take the pictures of the README
	ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" $(BIN)/python tests/browser/screenshots.py

# The plugins' libraries and what else an installation may leave out, as extras of pyproject.toml.
EXTRAS := nats http prometheus kubernetes ray oidc kubernetes-access
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-package almenara

.PHONY: lock
lock: ## Pin what is installed, with hashes (needs uv)
	$(COMPILE) $(EXTRAS:%=--extra %) --extra demo pyproject.toml requirements/build.in -o requirements/run.txt
	$(COMPILE) $(EXTRAS:%=--extra %) --extra demo --group dev pyproject.toml requirements/build.in -o requirements/dev.txt
	$(COMPILE) -c requirements/run.txt pyproject.toml -o requirements/image/core.txt
	for extra in $(EXTRAS); do \
		$(COMPILE) -c requirements/run.txt --extra $$extra pyproject.toml -o requirements/image/$$extra.txt || exit 1; done
	$(COMPILE) -c requirements/run.txt requirements/image/build.in -o requirements/image/build.txt
	$(COMPILE) requirements/chart.in -o requirements/chart.txt
	$(COMPILE) requirements/ray.in -o requirements/ray.txt
	$(COMPILE) requirements/bench.in -o requirements/bench.txt

.PHONY: sbom
sbom: $(VENV)/.dev ## Write what Almenara is made of as CycloneDX, to build/sbom.json
	$(BIN)/python .ci/sbom build/sbom.json

.PHONY: audit
audit: $(VENV)/.dev ## Look for known weaknesses in what Almenara is made of
	$(BIN)/python .ci/audit requirements/run.txt

.PHONY: clean
clean: ## Remove the environment and what was built
	rm -rf $(VENV) $(CHART) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Almenara needs Python 3.11 or newer, and none was found."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make an environment; on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }

$(RAY_DONE):
	@test -n "$(PYTHON)" || { echo "Ray needs Python 3.11 or newer, and none was found."; exit 1; }
	@echo "Setting up Ray in $(RAY_HOME); this takes a minute the first time."
	@rm -rf $(RAY_HOME) && $(PYTHON) -m venv $(RAY_HOME)
	@$(RAY_HOME)/bin/python -m pip install --quiet --disable-pip-version-check \
	$(if $(filter $(RAY_PINNED),$(RAY_VERSION)),--require-hashes -r requirements/ray.txt,"ray[default,serve]==$(RAY_VERSION)")
	@touch $@

$(VENV)/.run: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	@if test ! -e $(VENV)/.dev; then echo "Setting up; this takes a minute the first time."; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<; fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "Setting up for development; this takes a minute the first time."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

$(CHART)/.chart: requirements/chart.txt
	@echo "Setting up what checks the chart; this takes two minutes the first time."
	@$(PYTHON) -m venv $(CHART)
	@$(CHART)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.bench: requirements/bench.txt | $(VENV)/bin/python
	@echo "Setting up what the benchmark compares with; this takes a minute the first time."
	@$(PYTHON) -m venv $(VENV)/bench
	@$(VENV)/bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
