# Two commands do everything: `make demo` and `make test`. Both make .venv first if it is not there.
TARGET ?= cpu
READY := .venv/.ready-$(TARGET)
BIN := .venv/bin

.PHONY: demo test check lock clean

demo: $(READY)
	$(BIN)/fettle demo

test: $(READY)
	$(BIN)/python -m pytest -n 2

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
