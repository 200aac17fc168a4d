# make demo    a virtual environment, a model of the built-in text, a sample, a comparison of word vectors
# make test    the checks that every change must pass
# make check   lint, types and tests
# make reference    docs/reference: python.md from the docstrings, cli.md and the manual page from the commands
# make test-portable    the core in a Python without what only Unix has; all that is tested on Windows
# make package    the sdist and the wheel, in dist/; ADDRESS=https://... of the public repository goes into both
# make try-install PYTHONS="python3.10 python3.12"    both of them in fresh environments
# make bench TEXT=corpus.txt    gptlite beside its peers, half an hour on a quiet machine

VENV ?= .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN ?= $(VENV)/Scripts
endif
PYTHON ?= python3
BIN ?= $(VENV)/bin
DEMO_TIME ?= 2m
SENTENCES := "The [return] statement leaves the function" "A [return] statement may only occur in a function" \
	"It must [return] a new object" "These methods should [return] the result"

# Modules are compiled once, not by every process of the tests anew, whatever the environment prefers.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-portable lint check reference package try-install bench clean

# A stamp remembers what was installed when. Every virtual environment has a pyvenv.cfg, on Windows too.
$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# All in one step, with what the demo needs. Of 11,000 modules the tests import a few thousand: pip compiles none, the
# second line those that matter.
$(VENV)/installed-tests: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -c 'import altair, gensim, hypothesis, pytest, scipy.stats, torch._dynamo, transformers'
	touch $(VENV)/installed $@

# The newest run is what generate and embed use when no model is named.
demo: $(VENV)/installed
	$(BIN)/gptlite train --demo --time $(DEMO_TIME)
	@echo; echo "== a sample =="
	$(BIN)/gptlite generate --prompt "The object" --max-new-tokens 120 --seed 1
	@echo; echo "== one word, two meanings =="
	$(BIN)/gptlite embed $(SENTENCES)

$(VENV)/installed-llama: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[llama]'
	touch $@

# As many at a time as there are processors: each test has a folder of its own and needs one thread.
test: $(VENV)/installed-tests
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist worksteal

# With llama.cpp, which is compiled for some minutes the first time.
test-all: $(VENV)/installed-tests $(VENV)/installed-llama
	$(BIN)/pytest -m 'slow or not slow'

test-portable: $(VENV)/installed-tests
	$(BIN)/pytest tests/platforms tests/storage

lint: $(VENV)/installed-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint test

# What these pages of docs/reference say is what the docstrings and the options of the commands say.
reference: $(VENV)/installed
	$(BIN)/python docs/make_reference.py

package: $(VENV)/installed-tests
	$(BIN)/pip install --quiet build
	$(BIN)/python packaging/build.py --outdir dist $(if $(ADDRESS),--address "$(ADDRESS)" --ref "$(or $(REF),main)")

try-install: $(VENV)/installed-tests
	$(BIN)/python packaging/try_install.py $(or $(PYTHONS),$(PYTHON))

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

bench: $(VENV)/installed-bench
	$(if $(TEXT),,$(error name a text file: make bench TEXT=corpus.txt))
	$(BIN)/python benchmarks/train.py "$(TEXT)" --val 10%

clean:
	rm -rf $(VENV) build dist *.egg-info
