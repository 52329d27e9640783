"""Failed sign-ins are counted once for all of gunicorn's processes."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from calls.tests.support.factories import staff
from calls.tests.support.server import database_url, gunicorn

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.acceptance]

LIMIT, PROCESSES, THREADS = 10, 2, 8


@pytest.fixture
def server(db):
    user = staff("operator")
    user.set_password("right")
    user.save()
    with gunicorn(database_url(), DJANGO_DEBUG="1", WEB_CONCURRENCY=str(PROCESSES)) as host_and_port:
        yield f"http://{host_and_port}"


def sign_in(server, password):
    with httpx.Client(base_url=server, timeout=60) as browser:
        token = browser.get("/admin/login/").cookies["csrftoken"]
        form = {"csrfmiddlewaretoken": token, "username": "operator", "password": password}
        return browser.post("/admin/login/", data=form).status_code


def test_the_processes_share_the_count(server):
    answers = [sign_in(server, "wrong") for _ in range(LIMIT)]

    assert answers == [200] * (LIMIT - 1) + [429]
    assert sign_in(server, "right") == 429


def test_many_attempts_at_once_are_hardly_more_than_one_after_another(server):
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda number: sign_in(server, f"wrong {number}"), range(60)))

    assert set(answers) == {200, 429}
    # Requests that are checked before the last allowed failure is counted are let through: one for each thread.
    assert answers.count(200) < LIMIT + PROCESSES * THREADS
    assert sign_in(server, "right") == 429
