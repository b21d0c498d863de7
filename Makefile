# Needs Python 3.11+ and make. Everything else is installed into .venv from locked versions.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
SIZE ?= 1000000
OPTIONS ?=
WORKERS ?= 3
ONLY ?=

.PHONY: setup lint test chaos chaos-ci demo bench bench-backfill soak migrate lock clean

setup: $(STAMP)

$(STAMP): requirements-dev.lock
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Most tests wait more than they compute: two workers, each with a Kafka and a PostgreSQL of its own, take half the time.
# One process, for a debugger: make test WORKERS=0
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The fault suite: docs/reliability.md. One seed: make chaos SEED=7. Many: make chaos SEEDS=30. Some scenarios: ONLY=kill
chaos: setup
	SEED="$(SEED)" SEEDS="$(SEEDS)" $(BIN)/python -m pytest tests/chaos -m chaos -k "$(ONLY)" -n $(WORKERS) --dist worksteal

# The scenarios that run for every change, at one seed.
chaos-ci: setup
	SEED=1 $(BIN)/python -m pytest tests/chaos -m "chaos and quick" -n 2 --dist worksteal

demo: setup
	$(BIN)/python -m local.demo

# Shorter: make bench SIZE=200000. Further options, as in `python -m bench --help`: make bench OPTIONS="--verify"
bench: setup
	$(BIN)/python -m bench --events $(SIZE) $(OPTIONS)

# Days rebuilt from raw events, beside the original algorithm. Sooner: make bench-backfill OPTIONS="--events 200000 --rounds 1"
bench-backfill: setup
	$(BIN)/python -m bench.backfill $(OPTIONS)

# The consumer at full speed for 20 minutes, then overloaded for 3, and watched. Sooner: make soak OPTIONS="--minutes 2"
soak: setup
	$(BIN)/python -m bench.soak $(OPTIONS)

migrate: setup
	$(BIN)/python -m local.migrate

# After a change of pyproject.toml. Hashes, and no registry addresses, go into the lock files.
lock: setup
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml --group dev -o requirements-dev.lock

clean:
	rm -rf .venv .local build
