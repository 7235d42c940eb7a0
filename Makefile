# Two commands on a machine with Python 3.11+, make and git: `make demo` and `make test`. Both set up .venv themselves.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TOX := $(BIN)/python -m tox
CHECKS := lint,types,playbooks
PYTHONS := python3.14 python3.13 python3.12 python3.11 python3 python

.PHONY: demo test install-test bench soak lint clean help

help:
	@echo "make demo [KEEP=1]  the processor, real mails, results; KEEP=1 leaves it running"
	@echo "make test           tests, ruff, mypy, ansible-lint, shellcheck (what .ci/run calls)"
	@echo "make install-test   a fresh Debian becomes a backend; its checks and neighbours (root; what .ci/run calls too)"
	@echo "make lint           the same without the tests"
	@echo "make bench          measure speed and memory"
	@echo "make soak           the longer crash and load runs"
	@echo "make clean          remove everything that was made here"

demo: $(VENV)/.wodmail
	@PATH="$(CURDIR)/$(BIN):$$PATH" wodmail demo $(if $(filter-out 0,$(KEEP)),--keep)

# the tests measure deadlines, so nothing else runs beside them; both parts are run even when the first one fails;
# what `make lint` calls besides, scripts, is among the tests
test: $(VENV)/.tox
	@status=0; \
	$(TOX) run-parallel --parallel 2 --parallel-no-spinner -e $(CHECKS) || status=1; \
	$(TOX) run -e tests || status=1; \
	exit $$status

lint: $(VENV)/.tox
	$(TOX) run-parallel --parallel 2 --parallel-no-spinner -e $(CHECKS),scripts

install-test: $(VENV)/.tox
	$(TOX) run -e machine

bench: $(VENV)/.wodmail
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m benchmarks $(BENCH)

soak: $(VENV)/.tox
	$(TOX) run -e soak

$(VENV)/.made:
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "wodmail needs Python 3.11 or newer; found none on the PATH" >&2; exit 1; fi; \
	echo "setting up $(VENV) with $$found"; \
	"$$found" -m venv $(VENV) || { \
	  "$$found" -m venv --without-pip --clear $(VENV) && "$$found" -m pip --quiet --python $(BIN)/python install pip; \
	} || { echo "this Python makes no venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.wodmail: $(VENV)/.made setup.cfg pyproject.toml
	$(PIP) install --editable .
	@touch $@

$(VENV)/.tox: $(VENV)/.made
	$(PIP) install 'tox>=4.15'
	@touch $@

clean:
	rm -rf $(VENV) .tox .demo build dist wodmail.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
