# make demo                 the whole chain on synthetic speech (minutes)
# make demo DATA=folder     the same on real Speech Commands clips
# make test                 every test; installs what it needs
# SKIP_CROSS=1 make test    without the foreign processors
# make bench                time it beside other runtimes
# make bench BENCH_ARGS="--only ours --json"
# make bench-packed         time packed layers beside PyTorch's
# make clean                delete what all of these made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Further arguments for pip, such as the index of a CPU torch.
PIP_ARGS ?=
SOURCES := setup.cfg setup.py pyproject.toml constraints.txt \
	$(wildcard csrc/include/*.h csrc/src/*.[ch] csrc/python/*.c)

.PHONY: demo test bench bench-packed lint native tools clean

demo: $(VENV)/installed
	$(BIN)/python recipes/SpeechCommands/demo.py $(if $(DATA),--data "$(DATA)")

test: tools $(VENV)/installed native lint
	$(BIN)/python -m pytest -q -rs tests

bench: $(VENV)/bench
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

bench-packed: $(VENV)/installed
	$(BIN)/python benchmarks/packed.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/yamllint -s hparams

tools:
	@PYTHON="$(PYTHON)" sh .ci/tools.sh

INSTALL = $(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt

$(VENV)/installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[dev]"
	touch $@

# What was installed before there was a compiler has no compiled core yet.
native: $(VENV)/installed
	@$(BIN)/python -c "import speechbrain_bifsmn.kernels._native" \
		2>/dev/null || $(INSTALL) -e ".[dev]"

# A runtime that does not install here is left out, and the bench says so.
$(VENV)/bench: $(VENV)/installed
	for extra in onnx litert; do $(INSTALL) -e ".[$$extra]" || true; done
	touch $@

clean:
	rm -rf $(VENV) build results/demo
