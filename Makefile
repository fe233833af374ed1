# Everything sets itself up: scripts/setup makes .venv, and renews it when pyproject.toml changes.
# ARGS is handed on, as in `make run ARGS="--port 9000"` or `make test ARGS="tests/cli -x"`.

.PHONY: run test test-long check fix bench

run: # serve; settings come from the environment
	@scripts/setup run
	@exec .venv/bin/cardkeep serve $(ARGS)

test:
	@scripts/setup test
	.venv/bin/pytest -n 2 $(ARGS)

test-long: # the same with more seeds and versions
	@scripts/setup test
	.venv/bin/pytest -n 2 --long $(ARGS)

check:
	@scripts/setup test
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

fix:
	@scripts/setup test
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
	.venv/bin/python scripts/settings_page.py > docs/settings.md

bench: # beside the official server
	@scripts/setup test
	.venv/bin/python -m benchmarks $(ARGS)
