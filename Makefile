# Two commands do everything: `make demo` and `make test`. Both make .venv first if it is not there.
TARGET ?= cpu
READY := .venv/.ready-$(TARGET)
BIN := .venv/bin

.PHONY: demo test check chaos bench-sft lock clean

demo: $(READY)
	$(BIN)/fettle demo

test: $(READY)
	$(BIN)/python -m pytest -n 2

# A run is killed fifty times, and has to end as if it had been left alone: half an hour.
chaos: $(READY)
	$(BIN)/python benchmarks/chaos.py

# fettle's sft stage beside TRL, LLaMA-Factory and a bare loop: an hour.
bench-sft: $(READY)
	$(BIN)/python benchmarks/sft.py

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
