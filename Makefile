# Every everyday command. Needs only make and Python >= 3.11; `make` alone lists what there is.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
PYTHONS := python3.11 python3.12 python3.13 python3.14
# Further words for pytest: make test TESTS="tests/routing -x". A file's tests share what they start, so they stay together.
TESTS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help up test check bench lock fmt clean

help: ## List these commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

up: $(VENV)/installed ## Start Ziggie: installs what is missing, prints the address. Ctrl-C stops it.
	@exec $(PY) manage.py up

test: $(VENV)/installed $(VENV)/installed-dev ## Run all tests.
	@exec $(PY) -m pytest --create-db $(TESTS)

check: $(VENV)/installed $(VENV)/installed-dev ## Lint, format, types, import contracts, migrations.
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy ziggie routing knowledge agents monitoring manage.py
	$(PY) -c "from importlinter.cli import lint_imports_command as run; run()"
	DJANGO_SETTINGS_MODULE=tests.settings $(PY) manage.py makemigrations --check --dry-run

bench: $(VENV)/installed $(VENV)/installed-dev ## Run the benchmarks; each prints one JSON line.
	@for file in bench/[a-z]*.py; do name=$${file##*/}; $(PY) -m "bench.$${name%.py}" || exit 1; done

lock: $(VENV)/installed ## Compile requirements*.txt from requirements*.in, pinned and hashed.
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	for name in requirements requirements-dev; do \
	  $(PY) -m uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --quiet "$$name.in" -o "$$name.txt" || exit 1; done

fmt: $(VENV)/installed $(VENV)/installed-dev ## Format the code and mend what can be mended.
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

clean: ## Remove .venv and caches. Your data (.ziggie) stays.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- installing: each stamp is renewed only when its list of packages has changed ---

$(VENV)/installed: requirements.txt | $(PY)
	@echo "Installing what Ziggie needs (about a minute, once) …"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@echo "Installing what the tests need …"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements-dev.txt
	@touch $@

# A distribution's Python is built with profile-guided optimisation, what version managers compile mostly without; so
# it comes first (docs/adr/0016). A shim may exist and yet refuse to run: each candidate is tried, not just looked up.
$(PY):
	@for python in "$$PYTHON" $(addprefix /usr/bin/,$(PYTHONS)) $(PYTHONS) python3 python; do \
	  if [ -n "$$python" ] && "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	      2>/dev/null; then \
	    rm -rf $(VENV) && exec "$$python" -m venv $(VENV); fi; done; \
	echo "Ziggie needs Python 3.11 or newer with its venv module; here is: $$(python3 --version 2>&1)." >&2; \
	echo "Install it (Debian, Ubuntu: apt install python3 python3-venv), or name one: make up PYTHON=/path/to/python3" >&2; \
	exit 1
