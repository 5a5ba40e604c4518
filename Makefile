# Every target does its own set-up: a virtual environment in .venv, pinned by constraints.txt.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test test-browser test-scale check check-deploy format coverage mutants docs screenshots first-day lock licences sbom bench-train bench-compute bench-prepare bench-search bench-gpu gpu-session bench-http bench-overload bench-catalogue bench-live bench-faults bench-rolling bench-processes bench-batch bench-growth bench-warm bench-loop attack soak clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml constraints.txt clients/python/pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] < (3, 14) or sys.exit( \
	"error: %s is Python %d.%d; 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12" % (sys.executable, *sys.version_info[:2]))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]' --editable clients/python
	touch $@

demo: $(VENV)/installed  ## train on MovieLens-100K, or on DATA and ITEMS, serve it, ask it; ONESHOT=1 ends after the answer
	$(BIN)/python -m training.demo $(if $(ONESHOT),--oneshot) $(if $(DATA),--data $(DATA)) $(if $(ITEMS),--items $(ITEMS))

test: $(VENV)/installed  ## all tests, with a real Redis server
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-browser: $(VENV)/installed  ## the console's pages in Chromium, axe-core's checks included; the median page load
	@which chromium chromium-browser google-chrome 2>/dev/null | grep -q . || apt-get install --yes chromium \
		|| { echo "error: no Chromium here, and no right to install it: install the package chromium"; exit 1; }
	$(BIN)/python -m pytest tests/console/test_app.py tests/console/test_app_accessibility.py

check: $(VENV)/installed  ## format, lint, strict types, arrows between drawers, generated pages, named mutants
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/make_map.py --check
	$(BIN)/python docs/make_settings.py --check
	$(BIN)/python -m deploy.make_prometheus_rule --check
	$(BIN)/python -m deploy.make_dashboard --check
	$(BIN)/python -m deploy.make_settings_schema --check
	$(BIN)/python -c 'from benchmarks.mutants import read_equivalent; read_equivalent()'

$(VENV)/deploy: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev,deploy]'
	touch $@

check-deploy: $(VENV)/deploy  ## lint, render and validate the Helm chart; HELM: another helm than the one it downloads
	@$(BIN)/python -m deploy.check_chart $(if $(HELM),--helm $(HELM))

format: $(VENV)/installed  ## mend format and lint where a tool can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: $(VENV)/installed  ## all tests with coverage, replicas and commands that they start included; htmlcov/index.html
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report

mutants: $(VENV)/installed  ## small bugs put where they cost most, one by one: which do the tests let through? MINUTES, MODULE
	@$(BIN)/python -m benchmarks.mutants $(if $(MINUTES),--minutes $(MINUTES)) $(if $(MODULE),--module $(MODULE))

docs: $(VENV)/installed  ## rewrite what is generated: the map of files, the settings, the pictures, chart rules and settings, the dashboard
	$(BIN)/python docs/make_map.py
	$(BIN)/python docs/make_settings.py
	$(BIN)/python -m deploy.make_prometheus_rule
	$(BIN)/python -m deploy.make_dashboard
	$(BIN)/python -m deploy.make_settings_schema
	$(BIN)/python docs/make_pictures.py

screenshots: $(VENV)/installed  ## pictures of the console for the README, by Chromium; STORE: a model store, else the demo's
	$(BIN)/python docs/make_screenshots.py $(if $(STORE),--store $(STORE))

first-day: $(VENV)/installed  ## live a shop's first day, from a messy export to a rollback; writes docs/FIRST_DAY.md
	$(BIN)/python -m docs.make_first_day

lock: $(VENV)/installed  ## after a change of dependencies: the images' lock files, from pyproject.toml and constraints.txt
	$(BIN)/python -m supply_chain.lock

licences: $(VENV)/installed  ## the licence of every package in the images; fails if one does not fit
	@$(BIN)/python -m supply_chain.licences

sbom: $(VENV)/installed  ## bills of materials of the images, CycloneDX JSON, in build/sbom
	@$(BIN)/python -m supply_chain.sbom build/sbom

$(VENV)/benchmarks: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev,bench]'
	touch $@

bench-train: $(VENV)/benchmarks  ## training throughput beside a Hugging Face T5, one line of JSON
	@$(BIN)/python -m benchmarks.bench_train

bench-compute: $(VENV)/installed  ## what bf16 and compiled layers give in training, on a GPU
	@$(BIN)/python -m benchmarks.bench_compute

bench-prepare: $(VENV)/installed  ## rows a second and peak memory of preparing 100 million interactions
	@$(BIN)/python -m benchmarks.bench_prepare $(if $(ROWS),--rows $(ROWS))

bench-warm: $(VENV)/installed  ## retraining that goes on from the live version beside training from scratch, over five days
	@$(BIN)/python -m benchmarks.bench_warm $(if $(DATA),--data $(DATA))

bench-loop: $(VENV)/installed  ## a simulated shop for DAYS (5): experiments, nights of retraining, estimates; MINUTES, FOLDER, BEFORE
	@$(BIN)/python -m benchmarks.bench_loop $(if $(DAYS),--days $(DAYS)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(FOLDER),--folder $(FOLDER)) $(if $(BEFORE),--before $(BEFORE))

bench-search: $(VENV)/benchmarks  ## the search beside Hugging Face generate, and beside its floor
	@$(BIN)/python -m benchmarks.bench_search

bench-gpu: $(VENV)/benchmarks  ## the torch engine on a GPU, beside Hugging Face generate and eager torch
	@$(BIN)/python -m benchmarks.bench_gpu

gpu-session: $(VENV)/benchmarks  ## on a GPU, in calls of minutes: its tests, bench-gpu, both presets trained on DATA
	@$(BIN)/python -m benchmarks.gpu_session --data $(DATA)

bench-http: $(VENV)/installed  ## requests a second and latency over HTTP, and what the server costs beside the engine
	@$(BIN)/python -m benchmarks.bench_http

bench-overload: $(VENV)/installed  ## twice the measured capacity: goodput, health, answers checked, recovery
	@$(BIN)/python -m benchmarks.bench_overload

bench-catalogue: $(VENV)/installed  ## what the size of a catalogue costs: search, memory, start-up, filters
	@$(BIN)/python -m benchmarks.bench_catalogue $(if $(ITEMS),--items $(ITEMS))

bench-live: $(VENV)/installed  ## time until changes show on two replicas, bulk upload, boot, fill rate
	@$(BIN)/python -m benchmarks.bench_live

bench-faults: $(VENV)/installed  ## what clients notice while Redis is killed, frozen, slow, full, corrupt, empty, away or failing over
	@$(BIN)/python -m benchmarks.bench_faults

bench-rolling: $(VENV)/installed  ## what clients notice while all replicas behind HAProxy are replaced one by one
	@$(BIN)/python -m benchmarks.bench_rolling $(if $(STORE),--store $(STORE))

bench-processes: $(VENV)/installed  ## several processes on one machine beside one with threads: rate, CPU, memory
	@$(BIN)/python -m benchmarks.bench_processes $(if $(STORE),--store $(STORE))

$(VENV)/scale: $(VENV)/benchmarks
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev,bench,scale]'
	touch $@

test-scale: $(VENV)/scale  ## tests on several machines, which make test skips: Ray nodes, two agents of torchrun
	ETEGREC_TEST_MACHINES=1 $(BIN)/python -m pytest tests/model_store/shards/test_ray_cluster.py \
		tests/service/batch/test_run_ray.py tests/training/data/test_partitions.py \
		tests/training/loop/test_distributed_machines.py

bench-batch: $(VENV)/scale  ## users a second and core of a batch run, beside HTTP and generate; three nodes, one killed
	@$(BIN)/python -m benchmarks.bench_batch $(if $(STORE),--store $(STORE))

bench-growth: $(VENV)/installed  ## how time and memory of every stage grow with the items; SIZES, MINUTES of a stage that trains
	@$(BIN)/python -m benchmarks.bench_growth $(foreach size,$(SIZES),--sizes $(size)) $(if $(MINUTES),--minutes $(MINUTES))

attack: $(VENV)/installed  ## attack the real service for MINUTES (5): fuzz, floods, forged bundles, crashes; one line of JSON
	@$(BIN)/python -m benchmarks.bench_attack $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

soak: $(VENV)/installed  ## steady load for MINUTES (60) with changes, swaps and retraining: what grows
	@$(BIN)/python -m benchmarks.bench_soak $(if $(MINUTES),--minutes $(MINUTES))

clean:  ## remove the environment, the demo and build outputs
	rm -rf $(VENV) demo build *.egg-info
