# make quickstart: set up and train a GPT and a BERT on bundled text.  make test: set up and run every check.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test clean

quickstart: $(VENV)/.phalanx
	$(VENV)/bin/phalanx quickstart

test: $(VENV)/.test
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

$(VENV)/.phalanx: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.test: $(VENV)/.phalanx
	$(PIP) -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
