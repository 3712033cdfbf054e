# Two commands do everything: `make demo` and `make test`. Both make .venv first if it is not there.
TARGET ?= cpu
READY := .venv/.ready-$(TARGET)
BIN := .venv/bin

.PHONY: demo test check chaos lock clean bench-sft bench-start bench-rl bench-serve bench-adapters bench-sweeps bench-data

demo: $(READY)
	$(BIN)/fettle demo

test: $(READY)
	$(BIN)/python -m pytest -n 2

# A run is killed fifty times, and has to end as if it had been left alone: half an hour.
chaos: $(READY)
	$(BIN)/python benchmarks/chaos.py

# fettle beside its peers and beside what nobody can beat; docs/benchmarks.md has the tables. An hour for sft, 5 to 30
# minutes for each of the others, with nothing else on the machine.
bench-sft: $(READY)
	$(BIN)/python benchmarks/sft.py
bench-start: $(READY)
	for part in imports steps demo; do $(BIN)/python benchmarks/start.py $$part || exit; done
bench-rl: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/rl.py
bench-serve: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serve.py
bench-adapters: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serve_adapters.py
	$(BIN)/python benchmarks/engine_lora.py
bench-sweeps: $(READY)
	for part in trials asha; do $(BIN)/python benchmarks/sweeps.py $$part || exit; done
bench-data: $(READY)
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/data_tokens.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One compiled, pinned, hashed file a target; run it after changing pyproject.toml's dependencies.
lock: $(READY)
	bash deploy/lock.sh

$(READY): requirements/$(TARGET).txt pyproject.toml deploy/setup.sh
	bash deploy/setup.sh $(TARGET)
	touch $@

clean:
	rm -rf .venv runs
