"""The admin's pages as an operator uses them: their addresses, texts, forms and messages."""

import html
import re
from collections import defaultdict

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

BATCHES = "/admin/calls/callbatch/"
CONTACTS = "/admin/calls/campaigncontact/"
AGENCIES = "/admin/calls/agency/"
UNKNOWN_ID = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"


def signed_in(user):
    """Return a client that is signed in as ``user``, behind a proxy that terminates TLS."""
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(user)
    return client


def page_of(batch):
    return f"{BATCHES}{batch.pk}/change/"


def confirmation_of(*batches, verb="cancel"):
    """Return the address of the confirmation page for ``batches``, which may also be ids."""
    return f"{BATCHES}{verb}/?ids={','.join(str(getattr(batch, 'pk', batch)) for batch in batches)}"


def agency_page_of(tenant, action="change"):
    """Return the address of an agency's page, or of the page of one of its actions."""
    return f"{AGENCIES}{tenant.agency.pk}/{action}/"


def replacement_page_of(batch):
    return f"{BATCHES}{batch.pk}/replace/"


def text_of(response):
    """Return the text of a page, without its tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", response.content.decode()).split())


def messages_at(client, address):
    """Return level and text of each message that the page shows."""
    response = client.get(address)
    return [(message.level_tag, message.message) for message in response.context["messages"]]


def listed_ids(client, address, **parameters):
    """Return the ids on a page of a list, in the order of the page."""
    response = client.get(address, parameters)
    assert response.status_code == 200, response.headers
    return [row.pk for row in response.context["cl"].result_list]


def select(client, *batches, address=BATCHES, action="cancel_selected"):
    """Select batches in the list and choose an action."""
    return client.post(
        address, {"action": action, "_selected_action": [str(batch.pk) for batch in batches], "index": "0"}
    )


def hidden_fields(response):
    """Return what a browser would send with the confirmation page's form."""
    fields = defaultdict(list)
    for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', response.content.decode()):
        fields[name].append(html.unescape(value))
    return dict(fields)


def confirm(client, *batches, verb="cancel"):
    """Open the confirmation page, press its button, and return the messages that follow."""
    address = confirmation_of(*batches, verb=verb)
    response = client.post(address, hidden_fields(client.get(address)))
    assert response.status_code == 302
    return messages_at(client, response["Location"])


def queries(client, address, **parameters):
    """Return the SQL statements of a page, after a first request that fills this process's caches."""
    client.get(address, parameters)
    with CaptureQueriesContext(connection) as captured:
        assert client.get(address, parameters).status_code == 200
    return [query["sql"] for query in captured]
