import pytest
from django.contrib.auth.models import Group
from django.test import Client

from calls.models import Role
from calls.tests.cast import Tenant, client_of, staff


@pytest.fixture
def harbour(db):
    """The agency whose batches the tests cancel."""
    return Tenant.create("harbour")


@pytest.fixture
def bluebell(db):
    """Another agency, whose batches are none of Harbour's business."""
    return Tenant.create("bluebell")


@pytest.fixture
def owner(harbour):
    """The API as Harbour's owner sees it."""
    return client_of(harbour.users[Role.AGENCY_OWNER])


@pytest.fixture
def operator(db):
    """A member of the staff, in the group that may look at batches and cancel them."""
    user = staff("operator")
    user.groups.add(Group.objects.get(name="Call operators"))
    return user


@pytest.fixture
def admin(operator):
    """The admin as the operator sees it, through a proxy that ends TLS."""
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(operator)
    return client
