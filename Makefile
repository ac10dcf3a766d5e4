# From pixels to ResNet: every command of the course. `make` alone lists them.
# Written for GNU make 3.81 and newer and a POSIX shell: Linux, macOS, Git bash on Windows.

# Which Python makes the virtual environment: `make PYTHON=/path/to/python climb` names one.
# Otherwise the first of these that is 3.10 or newer and can make virtual environments.
PYTHON     ?=
CANDIDATES := python3.13 python3.12 python3.11 python3.10 python3 python
ARGS       ?=

VENV  := .venv
BIN   := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY    := $(BIN)/python
STAMP := $(VENV)/.installed

SIZE := about 6 GB on Linux, where PyTorch brings its GPU libraries; less elsewhere

QUARTO_VERSION := 1.10.19
CLIMB_OUT      := climb_out

# Settings of the caller's shell that would make pip install outside the virtual environment.
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PYTHONHOME

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help climb test lab notebooks docs export clean has-quarto moved

help: ## list these commands
	@echo "From pixels to ResNet. The first command that needs it sets up $(VENV) (once: about 6 GB on Linux)."
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Pass options on with ARGS, for example: make climb ARGS=--list"

climb: $(STAMP) ## climb the ladder on real digits; the picture and the report land in climb_out
	@"$(BIN)/climb" --out $(CLIMB_OUT) $(ARGS)

test: $(STAMP) ## run every check there is
	@OMP_NUM_THREADS=1 "$(PY)" -m pytest -n 2 --dist worksteal $(ARGS)

lab: $(STAMP) ## open the notebooks in JupyterLab
	@cd nbs && "../$(PY)" -m jupyterlab $(ARGS)

notebooks: $(STAMP) ## execute and save all notebooks, then refresh the table in README.md
	@"$(PY)" -m tools.notebooks $(ARGS)
	@"$(PY)" -m tools.readme

docs: has-quarto $(STAMP) ## build the site into _docs (needs Quarto)
	@QUARTO_PYTHON="$(CURDIR)/$(PY)" "$(BIN)/nbdev_docs"
	@test -f _docs/index.html || { echo "nbdev_docs ended without writing _docs/index.html: read its messages above." >&2; exit 1; }
	@echo "The site is in _docs: open _docs/index.html."

export: $(STAMP) ## write the library from the notebooks
	@"$(BIN)/nbdev_export"

clean: ## remove what was built; the virtual environment and climb_out stay
	rm -rf _docs _proc build dist nbs/nbdev.yml nbs/sidebar.yml .pytest_cache .ruff_cache .hypothesis
	find nbs pixels_to_resnet tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

has-quarto:
	@command -v quarto >/dev/null 2>&1 || { \
	  echo "make docs needs the program quarto, version $(QUARTO_VERSION), which is not on PATH: install it from https://quarto.org/docs/download and repeat; everything else here works without it, and '$(PY) -c \"from nbdev.serve import proc_nbs; proc_nbs()\"' does the half that comes before Quarto, into _proc." >&2; \
	  exit 1; }

# The stamp is written last, so an install that was interrupted is taken up again, and holds the
# folder's path, because a virtual environment does not survive being moved. Nor does it survive
# that its Python is removed or replaced by another version, so that one is asked for a package.
ifneq ($(wildcard $(STAMP)),)
ifneq ($(shell "$(PY)" -I -c "import pip" >/dev/null 2>&1 && cat $(STAMP)),$(CURDIR))
$(STAMP): moved
endif
endif

$(STAMP): settings.ini setup.py
	@start=$$(date +%s); \
	if test -f $(STAMP) && test "$$(cat $(STAMP))" != "$(CURDIR)"; then \
	  echo "This folder was moved: making $(VENV) again."; rm -rf $(VENV); \
	elif test -f $(STAMP) && ! "$(PY)" -I -c 'import pip' >/dev/null 2>&1; then \
	  echo "The Python of $(VENV) is gone or was replaced: making $(VENV) again."; rm -rf $(VENV); \
	fi; \
	rm -f $(STAMP); \
	if "$(PY)" -c 'import sys, pip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then \
	  echo "Bringing $(VENV) up to date with settings.ini; what is there is kept (all of it is $(SIZE))."; \
	else \
	  found=; old=; \
	  for p in $(if $(PYTHON),"$(PYTHON)",$(CANDIDATES)); do \
	    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 || continue; \
	    old="$$p"; \
	    "$$p" -c 'import venv, ensurepip' >/dev/null 2>&1 || continue; \
	    found="$$p"; break; \
	  done; \
	  if test -z "$$old"; then \
	    echo "Python 3.10 or newer was not found (tried: $(if $(PYTHON),$(PYTHON),$(CANDIDATES))): install it from https://www.python.org/downloads or your system's packages, or name it with make PYTHON=/path/to/python." >&2; exit 1; \
	  elif test -z "$$found"; then \
	    echo "$$old cannot make virtual environments because its venv or ensurepip module is missing: install it (on Debian and Ubuntu: sudo apt install python3-venv) or name another Python with make PYTHON=/path/to/python." >&2; exit 1; \
	  fi; \
	  echo "Setting up $(VENV) with $$("$$found" --version), once: $(SIZE). It takes 2 to 6 minutes, with nothing to see."; \
	  "$$found" -m venv --clear $(VENV) || exit 1; \
	fi; \
	again="The installation did not finish (pip's message is above); the same command takes it up again."; \
	"$(PY)" -m pip install -qq --disable-pip-version-check --upgrade pip || { echo "$$again" >&2; exit 1; }; \
	"$(PY)" -m pip install -qq --disable-pip-version-check -e '.[dev]' || { echo "$$again" >&2; exit 1; }; \
	printf '%s\n' "$(CURDIR)" > $(STAMP); \
	echo "$(VENV) is ready after $$(( $$(date +%s) - start )) seconds."
