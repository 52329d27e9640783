"""Dockerfile and compose.yaml, as far as they can be tested without Docker."""

import re

import pytest
import yaml

from calls.tests.support.factories import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("variable", COMPOSE["services"]["web"]["environment"])
def test_the_readme_explains_every_variable_of_compose_yaml(variable):
    assert f"| `{variable}` |" in README


def test_the_files_that_the_image_copies_exist_and_are_not_ignored():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert ignored[0] == "*"
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    assert {path for path in paths if f"!{path}" not in ignored} == set()


def test_the_image_runs_as_an_unprivileged_user_and_has_a_health_check():
    assert DOCKERFILE.rindex("USER 10001") > DOCKERFILE.rindex("FROM ")
    assert "/healthz" in DOCKERFILE.split("HEALTHCHECK")[1]


def test_compose_gives_a_stopping_server_time_to_finish_a_cancel():
    assert COMPOSE["services"]["web"]["stop_grace_period"] == "150s"
