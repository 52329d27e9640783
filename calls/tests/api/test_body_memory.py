"""A request's body is released as soon as the request is answered, without waiting for the garbage collector."""

import gc
import uuid
import weakref

import pytest

from calls.api import views
from calls.api.base import EdgeFunctionViewSet
from calls.api.parsers import AnyJSONParser, RawParser
from calls.tests.support.factories import URL, call
from calls.tests.support.webhooks import call_object, event_body

pytestmark = pytest.mark.django_db


class Parsed(dict):
    """A parsed body. Unlike a plain dict it can have weak references."""


class Raw(bytearray):
    """A raw body. Unlike bytes it can have weak references."""


@pytest.fixture
def bodies(monkeypatch):
    """Weak references to the bodies that were parsed. The garbage collector does not run."""
    references = []

    def watch(owner, name, kind):
        parse = getattr(owner, name)

        def watched(*args, **kwargs):
            body = kind(parse(*args, **kwargs))
            references.append(weakref.ref(body))
            return body

        monkeypatch.setattr(owner, name, watched)

    watch(AnyJSONParser, "parse", Parsed)
    watch(RawParser, "parse", Raw)
    watch(views, "parse_json", Parsed)
    gc.disable()
    yield references
    gc.enable()


@pytest.fixture
def without_release(monkeypatch):
    """For the control: the view keeps the body."""
    monkeypatch.delattr(EdgeFunctionViewSet, "finalize_response")


def refused_create(owner, harbour, deliver):
    return call(owner, "create", harbour.create_body("invalid"))


def accepted_create(owner, harbour, deliver):
    return call(owner, "create", harbour.create_body())


def refused_cancel(owner, harbour, deliver):
    return call(owner, "cancel", {"batch_id": str(uuid.uuid4())})


def refused_event(owner, harbour, deliver):
    return deliver(event_body(None, call_object("the-call")))


def stored_event(owner, harbour, deliver):
    return deliver(event_body("call.ended", call_object("the-call")))


@pytest.mark.parametrize(
    ("send", "status"),
    [
        (refused_create, 400),
        (accepted_create, 201),
        (refused_cancel, 404),
        (refused_event, 400),
        (stored_event, 200),
    ],
)
def test_the_body_is_released_when_the_request_is_answered(owner, harbour, deliver, bodies, send, status):
    response = send(owner, harbour, deliver)

    assert response.status_code == status
    assert bodies
    assert all(body() is None for body in bodies)


def test_the_body_with_the_content_type_of_a_form_is_released(owner, bodies):
    response = owner.generic("POST", URL, "{}", "application/x-www-form-urlencoded")

    assert response.status_code == 400
    assert bodies
    assert all(body() is None for body in bodies)


def test_control_the_body_would_wait_for_the_garbage_collector(owner, harbour, deliver, bodies, without_release):
    refused_create(owner, harbour, deliver)

    assert any(body() is not None for body in bodies)
