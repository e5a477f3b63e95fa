SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# The checkers of the chart, of the workflows and semgrep pin older libraries, so they have an
# environment of their own; so has the generator of the documentation site.
CHART := .venv-chart
SITE := .venv-site
# Without these options it looks for updates and sends statistics.
SEMGREP := PATH="$(CURDIR)/$(CHART)/bin:$$PATH" $(CURDIR)/$(CHART)/bin/semgrep scan --metrics=off --disable-version-check
# Without the pytest plugins that the checkers bring along.
PYTEST_CHART := PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(CHART)/bin/pytest
# The tests mostly wait for other programs, so two processes run them.
PARALLEL := -p xdist.plugin --numprocesses 2 --dist loadgroup
# Tests and benchmarks start Almenara hundreds of times; without its bytecode each start would compile
# it again. Containers often turn it off.
export PYTHONDONTWRITEBYTECODE :=
PORT ?= 8080
RATE ?= 20
REPLICAS ?= 1
PYTEST ?=
# Most of the tests wait for real servers, so they run in parallel.
WORKERS ?= 4
# `no` skips the tests that need a kube-apiserver, an alertmanager or a collector instead of building
# one.
APISERVER ?= yes
RAY ?=
NEO4J ?=
VLLM ?=

# Ray has an environment of its own: Almenara reads it over HTTP and does not depend on it.
RAY_PINNED := $(lastword $(subst ==, ,$(shell cat requirements/ray.in)))
RAY_VERSION ?= $(RAY_PINNED)
export RAY_VERSION
RAY_HOME := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/almenara/ray-$(RAY_VERSION)
# Names the requirements it was installed from, so that another clone with the same can use it.
RAY_DONE := $(RAY_HOME)/.done-$(if $(filter $(RAY_PINNED),$(RAY_VERSION)),$(firstword $(shell cksum < requirements/ray.txt)),index)

# So has vLLM, for CPUs: 7 GB, with a tiny model that the demo makes.
VLLM_HOME := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/almenara/vllm-$(firstword $(shell cksum < requirements/vllm.txt))
VLLM_DONE := $(VLLM_HOME)/.done

# The newest Python of the supported versions.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$python >/dev/null 2>&1 && $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

.PHONY: help
help: ## Show all targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: run
run: $(VENV)/.run $(if $(RAY),$(RAY_DONE)) $(if $(VLLM),$(VLLM_DONE)) ## Run a NATS server, a simulated fleet and the dashboard (PORT=8080 RATE=20 REPLICAS=3 RAY=1 NEO4J=1 VLLM=1)
	@exec $(BIN)/almenara demo --port $(PORT) --rate $(RATE) --replicas $(REPLICAS) $(if $(RAY),--ray $(RAY_HOME)/bin/ray) \
	$(if $(NEO4J),--neo4j "$$(tests/neo4j_server/build-server)/neo4j-server") \
	$(if $(VLLM),--vllm $(VLLM_HOME)/bin/python)

.PHONY: ray
ray: $(RAY_DONE) ## Install a real Ray for its tests, in an environment of its own

.PHONY: test-ray
test-ray: $(VENV)/.dev $(RAY_DONE) ## Run the tests against a real Ray (PYTEST="-k burst" RAY_VERSION=2.40.0)
	@$(BIN)/pytest tests/ray $(PYTEST)

.PHONY: neo4j
neo4j: ## Download the Neo4j server of the tests once, where Java and Maven are installed
	@tests/neo4j_server/build-server --optional > /dev/null

.PHONY: test-neo4j
test-neo4j: $(VENV)/.dev ## Run the Neo4j tests; fails without Java or Maven (NEO4J_VERSION=4.4.44)
	@tests/neo4j_server/build-server > /dev/null
	$(BIN)/pytest tests/integration/almenara_neo4j $(PYTEST)

.PHONY: test
test: $(VENV)/.dev apiserver alertmanager collector victoria-metrics neo4j ## Run all tests, the browser tests included (PYTEST="-k bus" APISERVER=no)
	@ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" && export ALMENARA_CHROMIUM && \
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(PYTEST)

.PHONY: apiserver
apiserver: ## Build the kube-apiserver of the tests once, where Go is installed (5 to 10 minutes)
	@$(if $(filter no,$(APISERVER)),,tests/kubernetes/build-api-server --optional > /dev/null)

.PHONY: alertmanager
alertmanager: ## Build the alertmanager of the tests once, where Go is installed (3 minutes)
	@$(if $(filter no,$(APISERVER)),,tests/alertmanager/build --optional > /dev/null)

.PHONY: test-alertmanager
test-alertmanager: $(VENV)/.dev ## Run the tests with a real Alertmanager; fails without Go
	@tests/alertmanager/build > /dev/null
	$(BIN)/pytest tests/integration/almenara_notifiers/test_alertmanager.py $(PYTEST)

.PHONY: victoria-metrics
victoria-metrics: ## Build the VictoriaMetrics of the tests once, where Go is installed (3 minutes)
	@$(if $(filter no,$(APISERVER)),,tests/victoria_metrics/build --optional > /dev/null)

.PHONY: test-victoria-metrics
test-victoria-metrics: $(VENV)/.dev ## Run the test with a real VictoriaMetrics; fails without Go
	@tests/victoria_metrics/build > /dev/null
	$(BIN)/pytest tests/integration/remote_write/test_victoria_metrics.py $(PYTEST)

.PHONY: collector
collector: ## Build the OpenTelemetry collector of the tests once, where Go is installed (5 minutes)
	@$(if $(filter no,$(APISERVER)),,tests/collector/build --optional > /dev/null)

.PHONY: test-kubernetes
test-kubernetes: $(VENV)/.dev ## Run the Kubernetes tests; fails without Go or a kube-apiserver
	@tests/kubernetes/build-api-server > /dev/null
	$(BIN)/pytest -k kubernetes $(PYTEST)

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Send the API many more generated requests than the tests do (FUZZED=500)
	ALMENARA_FUZZED=$(or $(FUZZED),300) $(BIN)/pytest -s tests/integration/web/test_api_fuzzing.py

.PHONY: check
check: lint types layers check-docs ## Check style, types, layers and generated documentation

.PHONY: lint
lint: $(VENV)/.dev ## Check style and common mistakes (ruff, bandit)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# bandit warns about each accepted line that only some of its rules apply to.
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive platform plugins .ci/sbom .ci/audit .ci/site \
	2> >(grep -v "nosec encountered" >&2)

.PHONY: types
types: $(VENV)/.dev ## Check types (mypy)
	$(BIN)/mypy

.PHONY: layers
layers: $(VENV)/.dev ## Check that imports follow the layers (import-linter)
	$(BIN)/lint-imports

.PHONY: check-docs
check-docs: $(VENV)/.dev ## Check that the generated documentation is up to date
	@$(BIN)/almenara config document | diff - docs/configuration.md \
	|| { echo "docs/configuration.md differs from the settings; run make docs"; exit 1; }
	@$(BIN)/almenara plugins document | diff - docs/plugins/contract.md \
	|| { echo "docs/plugins/contract.md differs from the hooks; run make docs"; exit 1; }

.PHONY: site
site: $(SITE)/.site ## Build the documentation site into build/site and check its links
	@.ci/site $(SITE)/bin/zensical

.PHONY: semgrep
semgrep: $(CHART)/.chart ## Check our own safety rules (semgrep) and test each rule
	@cd .ci/semgrep && $(SEMGREP) --test --quiet .
	@$(SEMGREP) --quiet --error --config .ci/semgrep/safety.yaml platform plugins

.PHONY: chart
chart: $(CHART)/.chart $(VENV)/.dev ## Generate the chart's schema, README and alert rules
	$(CHART)/bin/python helm/generate.py --almenara $(BIN)/almenara

.PHONY: lint-chart
lint-chart: $(CHART)/.chart $(VENV)/.dev ## Check the chart's generated files, and lint it and the Dockerfile
	$(CHART)/bin/python helm/generate.py --almenara $(BIN)/almenara --check
	$(CHART)/bin/hadolint Dockerfile
	$(PYTEST_CHART) tests/chart/test_rendering.py -k "lint or describes or artifact_hub"

.PHONY: lint-workflows
lint-workflows: $(CHART)/.chart ## Lint the GitHub workflows and forms
	$(CHART)/bin/zizmor --quiet --offline .github
	$(CHART)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(CHART)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(CHART)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

.PHONY: test-chart
test-chart: $(CHART)/.chart $(VENV)/.dev ## Test the chart and the image (PYTEST="-k ingress")
	@tests/kubernetes/build-cluster --optional > /dev/null
	ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" $(PYTEST_CHART) $(PARALLEL) tests/chart $(PYTEST)

.PHONY: bench
bench: $(VENV)/.dev ## Measure ingest, memory, start, isolation, disk and queries (BENCH="start memory")
	$(BIN)/python tests/benchmarks/run.py $(BENCH)

.PHONY: bench-short
bench-short: $(VENV)/.dev apiserver ## Run a short form of every benchmark; fails where something breaks, not where it is slow
	@ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" && export ALMENARA_CHROMIUM \
	&& $(BIN)/python tests/benchmarks/short.py

.PHONY: bench-history
bench-history: $(VENV)/.dev ## Measure stored events and searches against VictoriaLogs (EVENTS=20000000 FOLDER=where the databases are kept)
	$(BIN)/python tests/benchmarks/history.py --events $(or $(EVENTS),1000000) $(if $(FOLDER),--folder $(FOLDER))

.PHONY: bench-replicas
bench-replicas: $(VENV)/.dev ## Measure replicas on a shared bus against one process: ingest, takeovers, pages, time to paint
	$(BIN)/python tests/benchmarks/replicas.py

.PHONY: bench-fanout
bench-fanout: $(VENV)/.dev $(VENV)/.bench ## Measure thousands of live viewers against other servers, and write docs/performance.md and docs/performance-room.md
	@ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" && export ALMENARA_CHROMIUM \
	&& $(BIN)/python tests/benchmarks/fanout/run.py && $(BIN)/python tests/benchmarks/fanout/room.py

.PHONY: fanout
fanout: $(VENV)/.dev ## Check with many viewers that nothing is lost, grows or delays others
	$(BIN)/python tests/benchmarks/fanout/run.py --short

.PHONY: bench-alerts
bench-alerts: $(VENV)/.dev ## Measure what 1,000 alert rules cost beside the ingest
	$(BIN)/python tests/benchmarks/alert_rules.py

.PHONY: bench-hostile
bench-hostile: $(VENV)/.dev ## Measure what a hostile viewer takes from the others (BENCH_SECONDS=300)
	$(BIN)/python tests/benchmarks/hostile_viewer.py

.PHONY: soak
soak: $(VENV)/.dev ## Run the demo with faults of every server, and check each second what is shown (SOAK_SECONDS=7200 SOAK_SEED=1)
	$(BIN)/python tests/benchmarks/soak/run.py

.PHONY: bench-kubernetes
bench-kubernetes: $(VENV)/.dev ## Measure 5,000 pods in 200 namespaces, idle and changing
	@tests/kubernetes/build-api-server > /dev/null
	$(BIN)/python tests/benchmarks/kubernetes_load.py

.PHONY: bench-pages
bench-pages: $(VENV)/.dev ## Measure the Kubernetes pages in a browser at 5,000 changing pods
	@ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" $(BIN)/python tests/benchmarks/kubernetes_pages.py

.PHONY: bench-graph
bench-graph: $(VENV)/.dev neo4j ## Measure a graph of Neo4j with 10,000 nodes that changes 100 times a second
	@ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" $(BIN)/python tests/benchmarks/neo4j_graph.py

.PHONY: bench-charts
bench-charts: $(VENV)/.dev ## Measure how long a browser draws a chart of a day, and zooms into it
	@ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" $(BIN)/python tests/benchmarks/chart_paint.py

.PHONY: bench-past
bench-past: $(VENV)/.dev ## Measure pages of the past, and a playback for one viewer and 1,000, at 5,000 pods
	$(BIN)/python tests/benchmarks/past_pages.py; $(BIN)/python tests/benchmarks/playback.py

.PHONY: bench-ray
bench-ray: $(VENV)/.dev ## Measure the Ray panels with 10 and with 100,000 past jobs
	$(BIN)/python tests/benchmarks/ray_history.py

.PHONY: format
format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: docs
docs: $(VENV)/.dev ## Generate docs/configuration.md and docs/plugins/contract.md
	$(BIN)/almenara config document > docs/configuration.md
	$(BIN)/almenara plugins document > docs/plugins/contract.md

.PHONY: screenshots
screenshots: $(VENV)/.dev ## Take the screenshots of the documentation
	ALMENARA_CHROMIUM="$$(.ci/chromium $(BIN))" $(BIN)/python tests/browser/screenshots.py

# The extras of pyproject.toml that an image can be built with or without.
EXTRAS := nats http prometheus valkey vllm neo4j kubernetes ray notifiers apprise otlp oidc kubernetes-access
# Extras that the default image does not have: it would be much larger.
LARGE_EXTRAS := parquet
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-package almenara

.PHONY: lock
lock: ## Pin all requirements, with hashes (needs uv)
	$(COMPILE) $(EXTRAS:%=--extra %) --extra demo pyproject.toml requirements/build.in -o requirements/run.txt
	$(COMPILE) $(EXTRAS:%=--extra %) $(LARGE_EXTRAS:%=--extra %) --extra demo --group dev pyproject.toml requirements/build.in -o requirements/dev.txt
	$(COMPILE) -c requirements/run.txt pyproject.toml -o requirements/image/core.txt
	for extra in $(EXTRAS); do \
		$(COMPILE) -c requirements/run.txt --extra $$extra pyproject.toml -o requirements/image/$$extra.txt || exit 1; done
	for extra in $(LARGE_EXTRAS); do \
		$(COMPILE) -c requirements/dev.txt --extra $$extra pyproject.toml -o requirements/image/$$extra.txt || exit 1; done
	$(COMPILE) -c requirements/run.txt requirements/image/build.in -o requirements/image/build.txt
	$(COMPILE) requirements/chart.in -o requirements/chart.txt
	$(COMPILE) requirements/ray.in -o requirements/ray.txt
	$(COMPILE) requirements/bench.in -o requirements/bench.txt
	$(COMPILE) requirements/site.in -o requirements/site.txt

.PHONY: package
package: $(VENV)/.dev ## Build the wheel and the sdist into dist/
	$(BIN)/hatchling build

.PHONY: sbom
sbom: $(VENV)/.dev ## Write the bill of materials (CycloneDX) to build/sbom.json
	$(BIN)/python .ci/sbom build/sbom.json

.PHONY: audit
audit: $(VENV)/.dev ## Check the pinned requirements for known vulnerabilities
	$(BIN)/python .ci/audit requirements/run.txt

.PHONY: clean
clean: ## Remove the environments and everything that was built
	rm -rf $(VENV) $(CHART) $(SITE) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Almenara needs Python 3.11 or newer; install it or set PYTHON."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot create a virtual environment; on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }

$(RAY_DONE):
	@test -n "$(PYTHON)" || { echo "Ray needs Python 3.11 or newer; install it or set PYTHON."; exit 1; }
	@echo "Setting up Ray in $(RAY_HOME); this takes a minute the first time."
	@rm -rf $(RAY_HOME) && $(PYTHON) -m venv $(RAY_HOME)
	@$(RAY_HOME)/bin/python -m pip install --quiet --disable-pip-version-check \
	$(if $(filter $(RAY_PINNED),$(RAY_VERSION)),--require-hashes -r requirements/ray.txt,"ray[default,serve]==$(RAY_VERSION)")
	@touch $@

$(VLLM_DONE):
	@test "$$(uname -sm)" = "Linux x86_64" || { echo "vLLM for CPUs is installed on x86_64 Linux only; make run without VLLM=1 has a simulated server."; exit 1; }
	@python3.11 -c 'import venv' 2>/dev/null || { echo "vLLM needs Python 3.11 here, for which its requirements are pinned; install it, with python3.11-venv on Debian and Ubuntu."; exit 1; }
	@echo "Setting up vLLM in $(VLLM_HOME); this takes 7 GB of disk and 10 minutes the first time."
	@rm -rf $(VLLM_HOME) && python3.11 -m venv $(VLLM_HOME)
	@$(VLLM_HOME)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/vllm.txt \
	|| { echo "vLLM was not installed: see the error of pip above. It needs 10 GB of disk in $(VLLM_HOME) and in TMPDIR; set XDG_CACHE_HOME for another place. make run without VLLM=1 has a simulated server."; exit 1; }
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
	@echo "Setting up the checkers of the chart; this takes two minutes the first time."
	@$(PYTHON) -m venv $(CHART)
	@$(CHART)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.bench: requirements/bench.txt | $(VENV)/bin/python
	@echo "Setting up the servers that the benchmark compares with; this takes a minute the first time."
	@$(PYTHON) -m venv $(VENV)/bench
	@$(VENV)/bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(SITE)/.site: requirements/site.txt
	@echo "Setting up the generator of the documentation site; this takes a minute the first time."
	@$(PYTHON) -m venv $(SITE)
	@$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
