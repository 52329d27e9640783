# What the README shows without make, in one word each.

PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
EMBEDDED := $(BIN)/python -m agency_backend.embedded

# What a deployment would set: enough for check --deploy to have nothing to say.
PRODUCTION := ULTRAVOX_API_KEY=key DJANGO_DEBUG=0 DJANGO_SECRET_KEY=$$($(BIN)/python -c "import secrets; print(secrets.token_urlsafe(64))") DJANGO_ALLOWED_HOSTS=api.example.com \
	SUPABASE_URL=https://project.supabase.co CORS_ALLOWED_ORIGINS=https://app.example.com

# Some half an hour. One of them: make bench BENCH=cancel
BENCH := cancel layout claim bloat read ways create

# What runs a second time on tables that another team has made.
CANCEL_SUITE := $(addprefix calls/tests/,admin/test_cancel.py admin/test_pause_and_resume.py api commands/test_cancel_batch.py \
	commands/test_pause_and_resume.py concurrency/test_cancel_races.py concurrency/test_other_races.py concurrency/test_state_machine.py \
	database/test_foreign_writers.py database/test_guards.py dialler/test_passes.py models)

.PHONY: run test demo check bench screenshots clean

run: .venv/installed
	@DJANGO_DEBUG=1 $(EMBEDDED) -- sh -c '\
		$(BIN)/python manage.py migrate --verbosity 0 && \
		LOG_LEVEL=WARNING $(BIN)/python manage.py demo --address http://127.0.0.1:$(PORT) && \
		{ LOG_LEVEL=WARNING $(BIN)/python manage.py procrastinate worker & } && \
		exec $(BIN)/python manage.py runserver 127.0.0.1:$(PORT)'

test: .venv/installed
	@$(EMBEDDED) --temporary -- sh -ec '\
		$(BIN)/python -m pytest --numprocesses auto; \
		$(BIN)/python -m pytest --numprocesses auto --adopted $(CANCEL_SUITE)'

demo: .venv/installed
	@DJANGO_SETTINGS_MODULE=calls.tests.settings LOG_LEVEL=ERROR $(EMBEDDED) --temporary -- $(BIN)/python -m calls.tests.demo

check: .venv/installed test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
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
	@SCREENSHOTS=docs/images $(EMBEDDED) --temporary -- $(BIN)/python -m pytest -k signs_in_finds_a_batch calls/tests/admin/test_browser.py

clean: ## Throw away the demo's data, to start afresh with the next run.
	rm -rf .postgres

.venv/installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@
