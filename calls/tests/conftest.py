import pytest

from calls.models import Role
from calls.tests.cast import Tenant, client_of


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
