# Short names for the commands in the README.

PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
EMBEDDED := $(BIN)/python -m agency_backend.embedded

# Settings of a deployment. With them, check --deploy reports nothing.
PRODUCTION := ULTRAVOX_API_KEY=key DJANGO_DEBUG=0 DJANGO_SECRET_KEY=$$($(BIN)/python -c "import secrets; print(secrets.token_urlsafe(64))") DJANGO_ALLOWED_HOSTS=api.example.com \
	SUPABASE_URL=https://project.supabase.co TRUSTED_PROXIES=1 CORS_ALLOWED_ORIGINS=https://app.example.com

# All benchmarks take three quarters of an hour. Run one with: make bench BENCH=cancel
BENCH := cancel layout adopted claim bloat read ways create memory replace load platform

.PHONY: run test test-acceptance test-adopted demo check lint bench screenshots clean

run: .venv/installed
	@DJANGO_DEBUG=1 $(EMBEDDED) -- sh -c '\
		$(BIN)/python manage.py migrate --verbosity 0 && \
		LOG_LEVEL=WARNING $(BIN)/python manage.py demo --address http://127.0.0.1:$(PORT) && \
		{ LOG_LEVEL=WARNING $(BIN)/python manage.py procrastinate worker & } && \
		exec $(BIN)/python manage.py runserver 127.0.0.1:$(PORT)'

test: .venv/installed
	@$(EMBEDDED) --temporary -- $(BIN)/python -m pytest --numprocesses auto -m "not acceptance"

# A deployment under load in which processes are killed, and the admin in a browser.
test-acceptance: .venv/installed
	@$(EMBEDDED) --temporary -- $(BIN)/python -m pytest --numprocesses auto -m acceptance

# The tests on an adopted database, whose tables another service created. Those of a cancel also on a Supabase project's.
CANCEL_TESTS := calls/tests/models calls/tests/concurrency/test_cancel_races.py
test-adopted: .venv/installed
	@$(EMBEDDED) --temporary -- $(BIN)/python -m pytest --numprocesses auto --adopted --ignore calls/tests/deployment
	@$(EMBEDDED) --temporary -- $(BIN)/python -m pytest --numprocesses auto --adopted=supabase -k cancel -m "not acceptance" $(CANCEL_TESTS)

demo: .venv/installed
	@DJANGO_SETTINGS_MODULE=calls.tests.settings LOG_LEVEL=ERROR $(EMBEDDED) --temporary -- $(BIN)/python -m calls.tests.demo

check: test test-acceptance test-adopted lint

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint Dockerfile
	@$(EMBEDDED) --temporary -- sh -ec '\
		export DJANGO_DEBUG=1; \
		$(BIN)/mypy .; \
		$(BIN)/python manage.py migrate --verbosity 0; \
		$(BIN)/python manage.py makemigrations --check --dry-run; \
		$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null; \
		$(PRODUCTION) $(BIN)/python manage.py check --deploy --fail-level WARNING'

bench: .venv/installed
	@for each in $(BENCH); do \
		DJANGO_SETTINGS_MODULE=calls.tests.settings $(EMBEDDED) --temporary -- $(BIN)/python -m benchmarks.$$each || exit; \
	done

screenshots: .venv/installed
	@SCREENSHOTS=docs/images $(EMBEDDED) --temporary -- $(BIN)/python -m pytest -k signs_in_finds_a_batch calls/tests/admin

clean: ## Delete the demo's data.
	rm -rf .postgres

.venv/installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@
