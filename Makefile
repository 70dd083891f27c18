# Two commands for a user: `make search` and `make test`. Both make .venv first; `make help`
# prints what stands after ## behind each target.
# Programs run as modules: console scripts break in a path with a space.
.PHONY: search help test lint slow docs build_files lock clean
.SILENT:

PYTHON_IN_VENV := .venv/bin/python
# Without byte code each import of TensorFlow compiles its sources anew: 16 s instead of 6.
unexport PYTHONDONTWRITEBYTECODE

search: ## install, then search, retrain and export on the embedded digits: minutes
	sh .ci/environment requirements.txt
	$(PYTHON_IN_VENV) -m tools.search --preset=digits --output_dir=runs/digits --resume
	echo "The results are in runs/digits: result.json, accelerator.json, exports." >&2

help: ## this list
	sed -n 's/^\([a-z_]*\):.*## /make \1: /p' $(MAKEFILE_LIST)
	echo ".venv/bin/dance-tf lists the tools, and runs them from any folder."

test: lint ## what continuous integration runs: lint, then the tests that are not slow
	TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 \
	  $(PYTHON_IN_VENV) -m pytest -q -m "not slow" -n 2 --dist=loadfile --no-loadscope-reorder --durations=10

slow: ## the proofs that take long
	sh .ci/environment requirements-dev.txt
	$(PYTHON_IN_VENV) -m pytest -q -m slow

lint: ## ruff and mypy
	sh .ci/environment requirements-dev.txt
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m mypy

docs: ## build the manual into build/docs, its links checked
	sh .ci/environment requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 $(PYTHON_IN_VENV) -m mkdocs build --quiet --strict
	echo "The manual is build/docs/index.html." >&2

build_files: ## write the BUILD files anew from the imports; a test compares them
	sh .ci/environment requirements-dev.txt
	$(PYTHON_IN_VENV) -m tests.repo.build_files

lock: ## write the pinned packages that MODULE.bazel uses
	sh .ci/environment requirements-dev.txt
	$(PYTHON_IN_VENV) -m tests.repo.lock

clean: ## remove .venv, what builds leave, and runs/digits
	rm -rf .venv build *.egg-info runs/digits
