# Everything runs in an environment of its own, .venv, made with $(PYTHON) on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WHEEL := build/wheel
DEMO := build/demo

# Folders are listed too: their time changes where a file is taken away.
SOURCES := $(shell find $(wildcard cxrbatch training reports webapp) -name __pycache__ -prune -o \( -type d -o -type f \) -print) \
	setup.cfg pyproject.toml README.md LICENSE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint types clean

help: ## Show this list.
	@echo "make <target>, with PYTHON=python3.12 or another to choose the Python (3.11 or newer):"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.sample ## Install, write an example archive, score it, and make its report.
	@rm -rf $(DEMO)
	@mkdir -p $(DEMO)
	$(BIN)/cxrbatch sample $(DEMO)/archive
	@echo "$(BIN)/cxrbatch score $(DEMO)/archive -o $(DEMO)/results.parquet --overwrite"
	@$(BIN)/cxrbatch score $(DEMO)/archive -o $(DEMO)/results.parquet --overwrite; code=$$?; \
	case $$code in \
	0) ;; \
	3) echo "Exit code 3: the example archive holds broken files on purpose, each with its row." ;; \
	*) exit $$code ;; \
	esac
	$(BIN)/cxrbatch report $(DEMO)/results.parquet --labels $(DEMO)/archive/labels.csv \
		-o $(DEMO)/report.html --overwrite
	@echo "The report, for a browser: $(CURDIR)/$(DEMO)/report.html"
	@echo "The table and its images:  $(BIN)/cxrbatch serve $(DEMO)"
	@echo "A folder of your own:      $(BIN)/cxrbatch score FOLDER -o results.parquet"

test: lint types ## Run all checks: lint, types and tests.
	$(BIN)/pytest

lint: $(VENV)/.test ## Check style and formatting.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# mypy does not follow the mapping of folders to packages, so it is given an installed copy.
types: $(VENV)/.test ## Check types, on a freshly installed copy.
	@rm -rf build/typed
	@$(BIN)/python -m pip install --quiet --no-deps --target build/typed $(WHEEL)/*.whl
	cd build/typed && ../../$(BIN)/mypy --config-file ../../setup.cfg --cache-dir ../mypy -p cxrbatch

clean: ## Remove the environment and all that was built.
	rm -rf $(VENV) build dist cxrbatch.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "error: $(PYTHON) is not a Python of version 3.11 or newer; name one: make PYTHON=python3.12" >&2; \
	exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@touch $@

# build/lib is removed because setuptools would ship a module again that was deleted meanwhile.
$(WHEEL)/.built: $(SOURCES) | $(VENV)/.made
	@rm -rf $(WHEEL) build/lib build/bdist.* cxrbatch.egg-info
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEEL) .
	@touch $@

# What the package needs is looked up again where that may have changed. The package itself is
# always put in anew: pip takes a wheel of the same version for installed, whatever it holds.
define install
	@if [ $@-needs -nt setup.cfg ] && [ $@-needs -nt constraints.txt ]; then :; else \
	echo "Installing what cxrbatch needs (some 5 GB, a few minutes the first time)"; \
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(echo $(WHEEL)/*.whl)[$(1)]" && \
	touch $@-needs; fi
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall $(WHEEL)/*.whl
	@touch $@
endef

$(VENV)/.sample: $(WHEEL)/.built constraints.txt
	$(call install,sample)

$(VENV)/.test: $(WHEEL)/.built constraints.txt
	$(call install,openvino$(comma)ray$(comma)sample$(comma)test)

comma := ,
