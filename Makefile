# Needs Python 3.11 or newer (with pip) and nothing else. PYTHON=... chooses another one.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VNNCOMP ?= $(wildcard ../shared/vnncomp)

.PHONY: demo test pytest docs test-docs test-ray layers changelog dist test-real figures bench lint operators clean study study-kill render prune-oracle fuzz adversarial exact-verdicts
.DEFAULT_GOAL := demo

# The stamps make a second run quick; a changed pyproject.toml installs again.
$(VENV)/stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) -V 2>&1) found as $(PYTHON), expected 3.11 or newer: make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	touch $@

$(VENV)/stamp-package: $(VENV)/stamp-venv pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# onnx2torch names torchvision as a requirement, whose wheels fit only one build of torch (CPU or one CUDA version);
# --no-deps leaves the installed torch alone.
$(VENV)/stamp-test: $(VENV)/stamp-package pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps 'onnx2torch>=1.5.15'
	touch $@

demo: $(VENV)/stamp-package
	$(BIN)/python -m benchmarks.demo
	$(BIN)/python -m benchmarks.semantic_demo

lint: $(VENV)/stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Lint and types beside the tests, which take longer: one process of each has no use for a second core.
test: $(VENV)/stamp-test
	$(MAKE) --jobs 2 lint pytest

# As many processes as there are cores (at most 8), of one thread each; the slowest 20 tests are listed.
pytest: $(VENV)/stamp-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal --durations 20

# The documentation as a site, in out/site; warnings are errors, links inside it are checked, the notebooks of examples/
# are run, and the reference and the pictures are made from the code.
$(VENV)/stamp-docs: $(VENV)/stamp-package pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

docs: $(VENV)/stamp-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Every block of every page of the documentation; `make test` runs those of README and *start here* only.
test-docs: $(VENV)/stamp-test
	$(BIN)/python -m pytest tests/end_to_end/docs_pages.py

# Lists, coverage and comparisons on a Ray cluster of two nodes on this machine, one of which is killed; minutes.
test-ray: $(VENV)/stamp-test
	$(BIN)/python -m pip install --quiet --editable '.[ray]'
	$(BIN)/python -m pytest tests/end_to_end/ray_cluster.py

# Real benchmark instances, as published by VNN-COMP; not part of this repository. ARGS, for instance: --separate,
# --jobs 2, --only acasxu_2023, --first 10, --cap 60.
test-real: $(VNNCOMP)/instances.csv $(VENV)/stamp-package
	$(BIN)/python -m benchmarks.run "$(VNNCOMP)/instances.csv" --out out/real.jsonl $(ARGS)

# The figures that the verifier has to reach, on the same instances. PARTS: startup safenlp acas acas-separate ray (the
# last with the extra `ray`, where it is named).
figures: $(VNNCOMP)/instances.csv $(VENV)/stamp-package
	$(BIN)/python -m benchmarks.figures "$(VNNCOMP)" $(PARTS)

# Start-up, and what each bound costs.
bench: $(VENV)/stamp-package
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.throughput

# Random files through every reader and random problems through the verifier, for SECONDS; a failure is a folder under
# out/fuzz. ONLY="specification problems" chooses.
SECONDS ?= 300
SEED ?= 0
fuzz: $(VENV)/stamp-test
	$(BIN)/python -m benchmarks.fuzz --seconds $(SECONDS) --seed $(SEED) $(if $(ONLY),--only $(ONLY))

# Networks whose verdicts are known by construction, in both precisions, by every method; minutes.
adversarial: $(VENV)/stamp-test
	$(BIN)/python -m benchmarks.adversarial $(ARGS)

# 125 random networks, four thresholds each: verdicts of neuron splits against the mixed-integer programme, and
# CROWN <= alpha <= LP <= exact; minutes.
exact-verdicts: $(VENV)/stamp-test
	SECATEUR_NETWORKS=125 $(BIN)/python -m pytest tests/unit/search/test_exact_verdicts.py tests/unit/search/test_neurons.py tests/unit/bounds/test_alpha_beta.py

$(VNNCOMP)/instances.csv:
	@echo "error: no benchmark instances found; expected VNNCOMP=FOLDER with an instances.csv in it" >&2; exit 2

clean:
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

# The operator tables of the documentation; tests/test_architecture.py fails when they are out of date.
operators: $(VENV)/stamp-package
	$(BIN)/python -m docs.tools.operators docs/reference/operators.md

# The picture of the layers; tests/unit/test_contributing.py fails when it is out of date.
layers: $(VENV)/stamp-package
	$(BIN)/python -m docs.tools.layers

# Folds the fragments of changelog/ into CHANGELOG.md, under the version of pyproject.toml, and deletes them.
changelog: $(VENV)/stamp-package
	$(BIN)/python -m docs.tools.changelog

# Wheel and source distribution, checked, in dist/.
dist: $(VENV)/stamp-docs
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

# The ready-made study: trains, prunes, verifies, writes out/small/report.html; stop it whenever you like, it goes on.
study: $(VENV)/stamp-package
	$(BIN)/secateur compare --study benchmarks/studies/small.yaml --out out/small

# kill -9 at ten random moments of a study with real training and verification; minutes, so not part of `make test`.
study-kill: $(VENV)/stamp-test
	$(BIN)/python -m pytest tests/unit/study/kill_real.py

# Its report (or with none synthetic ones, also of a list) in headless Chromium, looked at by a program; pictures under
# out/render.
render: $(VENV)/stamp-package
	$(BIN)/python -m benchmarks.render_report $(wildcard out/small/report.html) --out out/render

# Dependency groups against the package torch-pruning; not part of `make test`, which needs no such package.
prune-oracle: $(VENV)/stamp-test
	$(BIN)/python -m pip install --quiet 'torch-pruning>=1.6,<2'
	$(BIN)/python -m pytest tests/unit/pruning/oracle_torch_pruning.py
