"""What the image and the composition rest on, which no engine is needed to see."""

import re

import pytest
import yaml

from calls.tests.support.factories import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("variable", COMPOSE["services"]["web"]["environment"])
def test_every_variable_of_the_composition_is_one_that_the_readme_explains(variable):
    assert f"| `{variable}` |" in README


def test_what_the_image_copies_is_there_and_not_ignored():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert ignored[0] == "*"
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    assert {path for path in paths if f"!{path}" not in ignored} == set()


def test_the_image_runs_without_privileges_and_is_asked_for_its_health():
    assert DOCKERFILE.rindex("USER 10001") > DOCKERFILE.rindex("FROM ")
    assert "/healthz" in DOCKERFILE.split("HEALTHCHECK")[1]


def test_a_server_that_is_stopped_gets_the_time_of_a_cancel():
    assert COMPOSE["services"]["web"]["stop_grace_period"] == "150s"
