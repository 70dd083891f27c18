# Two commands for a user: `make search` and `make test`. Both make .venv first.
# Programs run as modules: console scripts break in a path with a space.
.PHONY: search test lint slow build_files lock clean
.SILENT:

PYTHON_IN_VENV := .venv/bin/python

search:
	sh .ci/environment requirements.txt
	$(PYTHON_IN_VENV) -m tools.search --preset=digits --output_dir=runs/digits --resume
	echo "The results are in runs/digits: result.json, accelerator.json, exports." >&2

test: lint
	TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 \
	  $(PYTHON_IN_VENV) -m pytest -q -m "not slow" -n 2 --dist=loadfile --durations=10

slow:
	sh .ci/environment requirements-dev.txt
	$(PYTHON_IN_VENV) -m pytest -q -m slow

lint:
	sh .ci/environment requirements-dev.txt
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m mypy

# Write the BUILD files anew from the imports; a test compares them.
build_files:
	sh .ci/environment requirements-dev.txt
	$(PYTHON_IN_VENV) -m tests.repo.build_files

# Write the pinned packages that MODULE.bazel uses.
lock:
	sh .ci/environment requirements-dev.txt
	$(PYTHON_IN_VENV) -m tests.repo.lock

clean:
	rm -rf .venv build runs/digits
