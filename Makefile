# The commands of this project. Each target runs `setup` first when it is needed; `make` alone lists them.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-from-lock
# Without the migrations: one is as long as its change, and is never edited after its release.
CHECKED := app workers tests deploy alembic/env.py
MAX_LINES := 300
LONGEST_FIRST := tests/faults tests/harm tests/model tests/drill tests/acceptance tests/integration tests/unit
# Each process of pytest, and each of the service, compiles all that it imports where no bytecode is kept: 10 s of CPU.
KEEP_BYTECODE := env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX=$(or $(TMPDIR),/tmp)/accepted-test-bytecode-$(shell id -u)
SECOND_TRY := --reruns 1 --max-suite-reruns 5 -raR
RABBITMQ4 := /opt/accepted-rabbitmq4
HANDLERS := --extra images --extra email --extra otel
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --quiet

.DEFAULT_GOAL := help
.PHONY: help setup wheel demo test lint format bench bench-peers bench-scale bench-steady simulate slow faults drill screenshots soak rabbitmq4 mutants lock clean servers
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 13

setup: $(STAMP) ## make .venv with the locked packages and `accepted`

$(STAMP): requirements.lock pyproject.toml deploy/setup.sh
	@sh deploy/setup.sh $(VENV)
	@touch $@

wheel: setup ## build dist/accepted-….whl
	@$(BIN)/uv build --wheel --no-build-isolation --offline --quiet --python $(BIN)/python --out-dir dist .

demo: setup ## boot the embedded service and show a job's life, a retry, a dead letter and a signed webhook
	@$(BIN)/python -m deploy.demo

test: setup servers ## run the test suite, without the tests marked slow
	@$(KEEP_BYTECODE) $(BIN)/pytest $(LONGEST_FIRST) -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" $(SECOND_TRY)

lint: setup ## check style, types, import rules, file sizes and the Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/hadolint Dockerfile
	@long=$$(find $(CHECKED) -name '*.py' -exec awk 'END { if (NR > $(MAX_LINES)) print FILENAME ": " NR " lines" }' {} \;); \
		if [ -n "$$long" ]; then echo "$$long"; echo "no file over $(MAX_LINES) lines: split it"; exit 1; fi
	@if [ -e alembic/__init__.py ]; then echo "alembic/__init__.py hides the installed alembic"; exit 1; fi

format: setup ## format the code, and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup servers ## measure submissions, throughput, latency, idle CPU, a million lines, starts
	@$(BIN)/python -m tests.benchmarks

bench-scale: setup ## what requests cost with 10 million finished jobs and a million waiting: make bench-scale JOBS=100000
	@$(BIN)/python -m tests.benchmarks.scale $(if $(JOBS),--jobs=$(JOBS))

bench-steady: setup servers ## 10,000 clients that wait, a stuck receiver, a held transaction, an hour of disk: make bench-steady ONLY=held MINUTES=2
	@$(BIN)/python -m tests.benchmarks.steady $(if $(MINUTES),--minutes=$(MINUTES)) $(if $(CLIENTS),--clients=$(CLIENTS)) $(if $(ONLY),--only=$(ONLY))

bench-peers: setup servers ## the same jobs through Accepted and its peers: make bench-peers PEERS=accepted,dramatiq JOBS=1000 ROUNDS=1
	@sh tests/benchmarks/peers/install.sh .bench-peers $(VENV)
	@$(BIN)/python -m tests.benchmarks.peers $(if $(PEERS),--peers=$(PEERS)) $(if $(JOBS),--jobs=$(JOBS)) $(if $(ROUNDS),--rounds=$(ROUNDS))

simulate: setup servers ## measure what a job costs, compare a simulation with real drains, and compute larger machines
	@$(BIN)/python -m tests.benchmarks.simulation

slow: setup servers ## run the tests marked slow: a million lines, 100,000 delays, a rate over a minute; about 10 minutes
	@$(BIN)/pytest tests/integration tests/acceptance -m slow

faults: setup servers ## run the fault tests, slow ones too; writes docs/faults.md
	@FAULTS_TABLE=docs/faults.md $(BIN)/pytest tests/faults tests/harm tests/model -m "slow or not slow"

drill: setup servers ## break the service in ten ways, and see that it says what is wrong; writes docs/drill.md
	@DRILL_TABLE=docs/drill.md $(BIN)/pytest tests/drill -q -s

screenshots: setup servers ## take pictures of the dashboard; writes docs/images
	@$(BIN)/python -m tests.screenshots

soak: setup servers ## random faults under a steady load: make soak MINUTES=10 SEED=7
	@MINUTES=$(or $(MINUTES),10) SEED=$(SEED) $(BIN)/pytest tests/faults/test_soak.py -m slow -s

rabbitmq4: setup ## run the tests of the broker and the quick faults on RabbitMQ 4, taken from Debian 13; as root
	@sh tests/support/servers/rabbitmq4.sh $(RABBITMQ4)
	@PATH=$(RABBITMQ4)/wrappers/bin:$$PATH TEST_RABBITMQ=$(RABBITMQ4)/wrappers \
		$(BIN)/pytest tests/integration/broker tests/faults -m "not slow"

mutants: setup servers ## break the code on purpose, and check that a test fails
	@$(BIN)/pytest tests/mutants -n 3 --dist load

lock: setup ## lock the newest versions that pyproject.toml allows
	@$(COMPILE) --upgrade pyproject.toml --extra dev $(HANDLERS) --group test --group lint --group build -o requirements.lock
	@$(COMPILE) pyproject.toml --extra server $(HANDLERS) --constraint requirements.lock -o deploy/requirements.lock
	@$(COMPILE) --group build --constraint requirements.lock -o deploy/build.lock
	@if grep -n '://' requirements.lock deploy/*.lock; then echo "a lock file must not contain an address"; exit 1; fi

clean: ## delete the environment, builds and caches
	@rm -rf $(VENV) .bench-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

servers:
	@sh tests/support/servers/install_rabbitmq.sh
	@sh tests/support/servers/install_promtool.sh
	@sh tests/support/servers/install_chromium.sh
