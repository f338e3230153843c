# Commands that set up .venv by themselves; a second run skips that.
PYTHON ?= python3
BIN := .venv/bin
DEMO := work_dirs/demo
CONFIG := configs/prunet_effdet_searched.py
SAMPLES := $(foreach i,0 1 2 3 4 5 6 7,data/digits/val/00000$(i).jpg)

.PHONY: help env demo test gpu lint docs clean-demo

help:
	@echo "make demo        search a backbone, train a detector on it, evaluate it, draw detections"
	@echo "make test        run the tests"
	@echo "make gpu         on a CUDA GPU: latencies, training, search in nine minutes, into OUT=DIR"
	@echo "make lint        ruff and mypy"
	@echo "make docs        the documentation as a site, in site/"
	@echo "make env         set up .venv only"
	@echo "make clean-demo  forget the demo's search and training, so that the next one starts afresh"

env: .venv/.ready

.venv/.ready: constraints.txt pyproject.toml tools/setup_env.sh
	PYTHON=$(PYTHON) bash tools/setup_env.sh

demo: .venv/.ready
	$(BIN)/python tools/make_data.py digits
	$(BIN)/python tools/search_backbone.py configs/search/quick.py --budget-ms 0.35 --device v100 \
	  --batch 1 --input-size 512 --out $(DEMO)/search --resume
	$(BIN)/python tools/train.py $(CONFIG) --work-dir $(DEMO) --resume
	$(BIN)/python tools/test.py $(CONFIG) $(DEMO)/weights.safetensors \
	  --work-dir $(DEMO) --out $(DEMO)/metrics.json
	$(BIN)/python tools/detect.py $(SAMPLES) --config $(CONFIG) \
	  --checkpoint $(DEMO)/weights.safetensors --classes 0 1 2 3 4 5 6 7 8 9 --out $(DEMO)/detections --overwrite
	@echo "search: $(DEMO)/search/report.md, metrics: $(DEMO)/metrics.json, pictures: $(DEMO)/detections/"
	@grep bbox_mAP\" $(DEMO)/metrics.json

# One thread a process: several thread pools that busy-wait on few cores would stall one another.
test: .venv/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal \
	  -m "slow or not slow" tests

# With PYTHON=python3 it runs as that finds its packages, without .venv; .gpu/site may hold some.
OUT ?= work_dirs/gpu/records
MINUTES ?= 9
ifeq ($(origin PYTHON),file)
GPU_PYTHON := $(BIN)/python
gpu: .venv/.ready
else
GPU_PYTHON := PYTHONPATH=$(if $(wildcard .gpu/site),.gpu/site:).$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON)
endif
gpu:
	$(GPU_PYTHON) tools/gpu.py --out $(OUT) --minutes $(MINUTES) $(if $(COMMIT),--commit $(COMMIT)) $(FLAGS)

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# It warns of its own future.
docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean-demo:
	rm -rf $(DEMO)
