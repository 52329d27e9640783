"""Agencies with accounts of their own at the provider."""

from dataclasses import replace

from calls.audit import Source
from calls.dialler import accounts
from calls.tests.support.factories import STAFF_ACTOR

HARBOUR_KEY, BLUEBELL_KEY = "the-key-of-harbour", "the-key-of-bluebell"


def set_key(tenant, key):
    tenant.agency.set_ultravox_key(key, actor=STAFF_ACTOR, source=Source.COMMAND)


def expire():
    """Let the minute pass for which this process uses the keys that it has read."""
    for agency_id, account in accounts._ACCOUNTS.items():
        accounts._ACCOUNTS[agency_id] = replace(account, expires_at=0)


def attempts(batch):
    return list(batch.contacts.values_list("status", "attempts").order_by("pk"))
