# Everything starts from Python >= 3.11 and make: each target sets up what it needs.
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: setup matrix test test-slow test-fast test-device lint bench bench-gpu soak fuzz report paper readme verify archive clean help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready  ## virtual environment from requirements.lock

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "editlab needs Python >= 3.11, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

matrix: setup  ## results/ablation_matrix.csv of the default run
	$(BIN)/snakemake --cores $(CORES) results/ablation_matrix.csv

study: has-configfile setup  ## another run: make study CONFIGFILE=runs/full.yaml [TARGET=results/full/ablation_matrix.csv]
	$(BIN)/snakemake --cores $(CORES) $(TARGET) --configfile $(CONFIGFILE)

# Snakemake reads the file before it looks at the workflow, and shows a traceback when it is not there.
.PHONY: study has-configfile
has-configfile:
	@test -f "$(CONFIGFILE)" || { echo "CONFIGFILE: '$(CONFIGFILE)' is not a file; name one, such as runs/full.yaml" >&2; exit 2; }

report: setup  ## report.html: figures, tables and findings of the run (runs what is missing)
	$(BIN)/snakemake --cores $(CORES) --report-after-run --report report.html

paper: setup  ## report/final_report.pdf (needs LaTeX or tectonic)
	$(BIN)/snakemake --cores $(CORES) report/final_report.pdf

test: setup  ## all tests
	$(BIN)/pytest -n 2 --dist loadgroup

test-slow: setup  ## only the slow tests
	$(BIN)/pytest -n 2 --dist loadgroup -m slow

test-fast: setup  ## tests without the slow ones
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow"

# Tests of edits on it (tests/editing/test_second_device.py) are among all tests; these are the other rooms that compute.
ON_DEVICE ?= tests/algebra tests/networks/test_loading.py tests/edits tests/adapters/test_generators.py tests/unlearning/test_runs.py tests/training/test_unlearning.py

test-device: setup  ## the library on a device that is not the CPU; all of it: make test-device ON_DEVICE=tests/FOLDER
	$(BIN)/pytest -n 2 --dist loadgroup --second-device -m "not slow" $(ON_DEVICE)

lint: setup  ## ruff, snakefmt, mypy, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint

bench: setup  ## benchmarks -> results/benchmarks/*.json and the README's table
	$(BIN)/python -m benchmarks.run

bench-gpu: setup  ## edits at true size on one GPU, 8 minutes -> results/benchmarks/full_size.json and the README's table
	$(BIN)/python -m benchmarks.run full_size

readme: setup  ## the README's headline table and figure, from finished results
	$(BIN)/snakemake --cores $(CORES) results/tables/methods.csv results/figures/method_comparison.png
	$(BIN)/python -m editlab.analysis.edit.readme

verify: setup  ## compare all results with their provenance (SET_ASIDE=1: have the bad ones made again)
	@$(BIN)/python -m editlab.files.verify $(if $(SET_ASIDE),--set-aside)

archive: setup  ## editlab-results.tar.gz: results, provenance and configuration, to be shared (CONFIGFILE=runs/..)
	@$(BIN)/python -m editlab.files.bundle create editlab-results.tar.gz $(if $(CONFIGFILE),--configfile $(CONFIGFILE))

soak: setup  ## kill the default run 20 times at random moments; it must end as if undisturbed
	$(BIN)/python -m benchmarks.soak --kills 20

fuzz: setup  ## 100,000 broken inputs for every reader of files -> results/benchmarks/fuzz.json
	$(BIN)/python -m benchmarks.run fuzz

clean:  ## results and logs (the virtual environment stays)
	rm -rf results/* logs .snakemake
