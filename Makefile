# Everything a user or the CI runs. As root on Debian 12: `make demo`, `make test`.
PYTHON := .venv/bin/python
STAMP := build/venv.stamp
C_SOURCES := $(wildcard csrc/*.c csrc/*.h csrc/*.py)

SECONDS := 60

.PHONY: deps test-deps venv check test sanitize fuzz demo bench proof vmlab clean

deps:
	@packaging/install-deps.sh debian-packages
	@packaging/guest-kernel

# Servers that tests and bench run against; nothing that rha itself needs.
test-deps:
	@packaging/install-deps.sh debian-packages debian-packages-tests
	@packaging/guest-kernel

venv: deps $(STAMP)

$(STAMP): pyproject.toml setup.py $(C_SOURCES)
	/usr/bin/python3 -m venv --system-site-packages .venv
	.venv/bin/pip install -q --disable-pip-version-check -e '.[dev]'
	@mkdir -p $(@D) && touch $@

check: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy -p demo -p proof -p vmlab

test: venv test-deps
	.venv/bin/pytest

sanitize: test-deps
	@tests/csrc/run.sh
	@tests/fuzz/c/run.sh --runs 20000 --seed 1

# Looks for new faults, SECONDS for each target; `make test` and `make sanitize` repeat what was found.
fuzz: venv test-deps
	$(PYTHON) tests/fuzz/fuzz.py --seconds $(SECONDS)
	tests/fuzz/c/run.sh --seconds $(SECONDS)

demo: venv
	@$(PYTHON) -m demo

bench: venv test-deps
	$(PYTHON) -m bench

proof: venv test-deps
	@$(PYTHON) -m proof

# What needs a Debian machine of its own: device stacks, dm-log-writes, the life of devices, reboots. SCENE= picks one.
vmlab: venv
	$(PYTHON) -m vmlab $(SCENE)

clean:
	rm -rf build .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f rha/_native.c rha/_native*.so
