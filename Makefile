# make demo   installs for texts and images, runs the main job on demo/messages.csv, on digits and on drawn shapes; pages under runs/
# make test   installs everything, runs every test
# make lint   ruff and mypy
PYTHON ?= python3
BIN := .venv/bin
RUFF := $(BIN)/ruff
BUDGET ?= 40s

# Two workers, one thread each: more threads than cores make small networks slower, not faster.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint clean

demo: .venv/.demo-installed
	rm -rf runs/demo runs/demo-*  # another BUDGET is another run, which its folder would refuse
	OMP_NUM_THREADS=2 $(BIN)/graft run demo/messages.csv --out runs/demo --budget $(BUDGET)
	$(BIN)/python demo/images.py runs/demo-images
	OMP_NUM_THREADS=2 $(BIN)/graft run runs/demo-images/digits --backbone shipped:image --backbone shipped:doodle --out runs/demo-digits
	OMP_NUM_THREADS=2 $(BIN)/graft run runs/demo-images/shapes --backbone shipped:image --out runs/demo-shapes

test: .venv/.all-installed
	$(BIN)/python -m pytest -q -n 2

lint: .venv/.all-installed
	$(RUFF) check .
	$(RUFF) format --check .
	$(BIN)/mypy

# Stamp files: a second call installs nothing unless what is asked for has changed.
.venv/.demo-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[text,image]'
	touch $@

.venv/.all-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@ .venv/.demo-installed

clean:
	rm -rf .venv build dist runs *.egg-info .pytest_cache .ruff_cache .mypy_cache
