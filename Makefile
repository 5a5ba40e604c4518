# Every target does its own set-up: a virtual environment in .venv, pinned by constraints.txt.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test check format coverage mutants docs first-day lock licences sbom bench-train bench-compute bench-prepare bench-search bench-gpu gpu-session bench-http bench-overload bench-catalogue bench-live bench-faults attack soak clean

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

check: $(VENV)/installed  ## format, lint, strict types, arrows between drawers, generated pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/make_map.py --check
	$(BIN)/python docs/make_settings.py --check

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

docs: $(VENV)/installed  ## rewrite what is generated in docs/: the map of files, the settings, the pictures
	$(BIN)/python docs/make_map.py
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/make_pictures.py

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

bench-faults: $(VENV)/installed  ## what clients notice while Redis is killed, frozen, slow, full, corrupt, empty or away
	@$(BIN)/python -m benchmarks.bench_faults

attack: $(VENV)/installed  ## attack the real service for MINUTES (5): fuzz, floods, forged bundles, crashes; one line of JSON
	@$(BIN)/python -m benchmarks.bench_attack $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

soak: $(VENV)/installed  ## steady load for MINUTES (60) with changes, swaps and retraining: what grows
	@$(BIN)/python -m benchmarks.bench_soak $(if $(MINUTES),--minutes $(MINUTES))

clean:  ## remove the environment, the demo and build outputs
	rm -rf $(VENV) demo build *.egg-info
