# What people type; what it means stands in scripts/.
.PHONY: help up down test soak simulate chaos check bench lock

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

up: ## start the platform, installing what is missing on a Debian machine
	@scripts/up

down: ## end every sandbox and the platform
	@scripts/down

test: ## run everything: format, lint, types, all tests
	@scripts/test

soak: ## the endurance tests of the data path, at length
	@scripts/soak

simulate: ## a day of ten thousand users in simulated time (five minutes; needs root)
	@scripts/venv && PYTHONHASHSEED=0 .venv/bin/python -m tests.orchestrator.simulation

chaos: ## click for two minutes while parts are killed at random (needs Docker and root)
	@scripts/chaos

check: ## format, lint and types only
	@scripts/venv && scripts/check

bench: ## measure the data path beside other proxies (four minutes), and write docs/benchmarks.md
	@scripts/bench data-path

bench-neighbours: ## measure what a visitor notices of hostile neighbours (four minutes; needs Docker and root)
	@scripts/venv && .venv/bin/python -m benchmarks neighbours

bench-start: ## measure how long a visitor waits for an app (ten minutes; needs Docker and root)
	@scripts/venv && env $$(scripts/build-env) .venv/bin/python -m benchmarks start

bench-memory: ## measure what 200 sandboxes take (five minutes; needs Docker and root)
	@scripts/venv && env $$(scripts/build-env) .venv/bin/python -m benchmarks memory

bench-catalogue: ## measure a catalogue of 200 apps and a change of its configuration (half a minute; needs root)
	@scripts/venv && .venv/bin/python -m benchmarks catalogue

bench-runtimes: ## measure what gVisor costs a sandbox (two minutes; needs Docker, root, and runsc: scripts/runsc gets it)
	@scripts/venv && env $$(scripts/build-env) .venv/bin/python -m benchmarks runtimes

bench-package: ## measure the package beside htagweb 1.0.0 (two minutes; needs the package index)
	@scripts/venv && .venv/bin/python -m benchmarks package

lock: ## bring every locked dependency up to date
	@scripts/venv && scripts/lock --upgrade
