# Every target does its own set-up in .venv; only the first one takes time. Needs Python 3.11 or newer with venv.
#
#   make demo PYTHON=/path/to/python          uses the torch of that Python instead of installing one
#   make demo DEMO_ARGS="--prompt '...'"      passes options to accel demo (likewise APP_ARGS, BENCH_ARGS, ...)
#   make test PYTEST_ARGS="tests/caching"     passes options to pytest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The registry's torch for Linux is the CUDA build, gigabytes in size. Without a GPU the build for CPU is taken: from where
# pip looks anyway (a mirror, a folder of wheels) if it is there, else from PyTorch's own index.
TORCH := $(shell grep '^torch==' constraints.txt)
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
ifeq ($(shell uname -s)$(shell command -v nvidia-smi 2>/dev/null),Linux)
INSTALL_TORCH := $(INSTALL) $(TORCH)+cpu 2>/dev/null || $(INSTALL) --index-url https://download.pytorch.org/whl/cpu $(TORCH)
else
INSTALL_TORCH := $(INSTALL) $(TORCH)
endif

.PHONY: app bench demo docs dist gallery screenshots gpu frontier bench-attention bench-render hindsight presets tune levers trajectory train train-image judges holds speeds siblings test lint types clean

demo: $(VENV)/installed
	$(BIN)/accel demo --out out/demo $(DEMO_ARGS)
	@echo "Open $(CURDIR)/out/demo/page.html in a browser."

app: $(VENV)/installed-app
	$(BIN)/accel app $(APP_ARGS)

trajectory: $(VENV)/installed
	$(BIN)/python -m benchmarks.guidance_samplers --out out/trajectory $(TRAJECTORY_ARGS)

levers: $(VENV)/installed
	$(BIN)/python -m benchmarks.ablation --out out/levers $(LEVERS_ARGS)

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.tuning --out out/bench $(BENCH_ARGS)

tune: $(VENV)/installed
	$(BIN)/accel tune pocket:video --min-psnr 30 --out out/tune $(TUNE_ARGS)

hindsight: $(VENV)/installed
	$(BIN)/python -m benchmarks.hindsight --out out/hindsight $(HINDSIGHT_ARGS)

presets: $(VENV)/installed
	$(BIN)/python -m benchmarks.presets --out out/presets $(PRESETS_ARGS)

frontier: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.frontier --out out/frontier $(FRONTIER_ARGS)

bench-attention: $(VENV)/installed
	$(BIN)/python -m benchmarks.attention $(BENCH_ARGS)

bench-render: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.rendering $(BENCH_ARGS)

gpu: $(VENV)/installed-bench $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.gpu $(GPU_ARGS)

train: $(VENV)/installed
	$(BIN)/python -m benchmarks.pocket.train_video --out out/pocket $(TRAIN_ARGS)

train-image: $(VENV)/installed
	$(BIN)/python -m benchmarks.pocket.train_image --out out/image $(TRAIN_ARGS)

holds: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.holds --out out/holds $(HOLDS_ARGS)

speeds: $(VENV)/installed-bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.speeds --out out/speeds $(SPEEDS_ARGS)

dist: $(VENV)/installed-dev
	rm -rf build dist
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')" > /dev/null
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz
	@ls -l dist

gallery: $(VENV)/installed-bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.gallery --out out/gallery $(GALLERY_ARGS)

screenshots: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.screenshots $(SCREENSHOTS_ARGS)

judges: $(VENV)/installed-bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.judges.train --all --compile $(JUDGES_ARGS)

siblings: $(VENV)/installed
	$(BIN)/python -m benchmarks.pocket.distill --out out/few --compile $(DISTILL_ARGS)
	$(BIN)/python -m benchmarks.pocket.shrink --out out/small --compile $(SHRINK_ARGS)

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "Open $(CURDIR)/out/site/index.html in a browser."

# Bytecode of the tests is kept even where the environment says otherwise: rewriting their asserts takes each worker ten seconds.
test: $(VENV)/installed-dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The built wheel is checked, and the laboratory beside it, because type checkers do not see through an editable install with mapped folders. A build/
# that is left over would put deleted files into the wheel.
types: $(VENV)/installed-dev
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/dist .
	$(INSTALL) --no-deps --target build/typed build/dist/*.whl
	MYPYPATH=build/typed:. $(BIN)/mypy --strict -p accel -p benchmarks

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# torch comes first and alone: as a dependency of another package pip would choose its build. A torch that $(PYTHON) has
# is neither installed again nor changed: a .pth file shows it to .venv, and the constraints take its version.
$(VENV)/constraints.txt: constraints.txt
	$(PYTHON) -m venv $(VENV)
	@cp constraints.txt $@.new
	@set -e; if version=$$($(PYTHON) -c "import torch; print(torch.__version__)" 2>/dev/null); then \
		echo "Using torch $$version of $(PYTHON)."; \
		sed -i.old "s/^torch==.*/torch==$$version/" $@.new; \
		$(PYTHON) -c "import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])" \
			> "$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/torch.pth"; \
	else \
		echo "Installing $(TORCH) into $(VENV)."; \
		$(INSTALL_TORCH); \
	fi
	@mv $@.new $@

$(VENV)/installed-dev: EXTRA := [dev]
$(VENV)/installed-bench: EXTRA := [bench]
$(VENV)/installed-app: EXTRA := [app]
$(VENV)/installed-docs: EXTRA := [docs]
$(VENV)/installed $(VENV)/installed-dev $(VENV)/installed-bench $(VENV)/installed-app $(VENV)/installed-docs: $(VENV)/constraints.txt pyproject.toml
	@echo "Installing accel$(EXTRA) and what it needs into $(VENV)."
	@$(INSTALL) --constraint $(VENV)/constraints.txt --editable ".$(EXTRA)"
	@touch $@ $(VENV)/installed
