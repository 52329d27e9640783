"""GET /healthz, with and without a working database."""

import pytest
from django.db import OperationalError, connection


@pytest.mark.django_db
def test_the_health_check_answers_200_while_the_database_answers(client):
    assert client.get("/healthz").status_code == 200


@pytest.mark.django_db
def test_the_health_check_answers_503_while_the_database_fails(client):
    def fails(execute, sql, params, many, context):
        raise OperationalError

    with connection.execute_wrapper(fails):
        response = client.get("/healthz")

    assert (response.status_code, response.json()) == (503, {"status": "unavailable"})
