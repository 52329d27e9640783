"""The operators' door from end to end: a real server, a real browser, the demo's data."""

import os
from importlib import import_module
from io import StringIO
from itertools import product
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from django.apps import apps
from django.conf import global_settings
from django.core.management import call_command
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from calls.api.schema import EXAMPLE_BATCH_ID
from calls.models import Agency, CallBatch
from calls.statuses import BatchStatus
from calls.tests.admin.test_pages import BATCHES, CONTACTS
from calls.tests.support.browser import browser, needs_chromium
from calls.tests.support.server import database_url, gunicorn

pytestmark = [needs_chromium, pytest.mark.django_db(transaction=True)]

PAGE = f"{BATCHES}{EXAMPLE_BATCH_ID}/change/"
CONFIRMATION = f"{BATCHES}cancel/?ids={EXAMPLE_BATCH_ID}"
PAUSE = f"{BATCHES}pause/?ids={EXAMPLE_BATCH_ID}"
SCREENSHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def window(django_db_setup):
    with gunicorn(database_url(), DJANGO_DEBUG="1") as server, browser(f"http://{server}") as chromium:
        yield chromium


@pytest.fixture
def chromium(db, settings, window):
    """The browser at the sign-in page of the demo, as if nobody had used it before."""
    # Whichever test ran before has emptied every table, also of what a migration puts there.
    import_module("calls.migrations.0005_call_operators").create_group(apps, None)
    settings.DEBUG = True
    settings.PASSWORD_HASHERS = global_settings.PASSWORD_HASHERS
    call_command("demo", stdout=StringIO())
    window.forget()
    window.look()
    window.visit("/admin/")
    return window


@pytest.fixture
def operator(chromium):
    """The browser once the operator has signed in."""
    chromium.sign_in("operator", "operator")
    return chromium


def example():
    return CallBatch.objects.get(pk=EXAMPLE_BATCH_ID)


def photograph(chromium, name):
    """Keep a picture for the README, if asked for one."""
    if SCREENSHOTS:
        height = chromium.execute_script("return document.documentElement.scrollHeight")
        chromium.look(height=min(height, 900))
        chromium.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))
        chromium.look()


def test_an_operator_signs_in_finds_a_batch_cancels_it_and_reads_who_did_it(chromium):
    chromium.sign_in("operator", "operator")
    chromium.follow("Call batches")
    photograph(chromium, "list")
    chromium.type("q", "harbour")
    chromium.follow(EXAMPLE_BATCH_ID)
    assert "Harbour & Pine: Spring check-in" in chromium.text
    photograph(chromium, "batch")

    chromium.follow("Cancel batch")
    assert example().status == BatchStatus.PROCESSING
    photograph(chromium, "confirmation")
    chromium.follow("Skip 342 contacts in 1 batch")

    assert chromium.messages == [
        f"Batch {EXAMPLE_BATCH_ID} (Harbour & Pine, Spring check-in): cancelled."
        " 342 contacts skipped; 5 calls in progress will finish."
    ]
    assert "Cancelled: 747 contacts" in chromium.text
    when = example().completed_at
    assert f"{when:%Y-%m-%d %H:%M:%S} UTC Cancelled operator (staff) admin 342" in chromium.text
    photograph(chromium, "cancelled")


def test_several_batches_are_chosen_in_the_list_and_cancelled_together(operator):
    operator.visit(f"{BATCHES}?agency=bluebell")
    operator.find_element(By.ID, "action-toggle").click()
    operator.find_element(By.NAME, "action").send_keys("Cancel selected batches")
    operator.follow("Go")
    assert "Batch is already cancelled, since" in operator.text

    operator.follow("Skip 234 contacts in 2 batches")

    assert operator.current_url.endswith(f"{BATCHES}?agency=bluebell")
    assert sorted(message.split(": ", 1)[1][:20] for message in operator.messages) == [
        "cancelled. 210 conta",
        "cancelled. 24 contac",
    ]


def test_an_operator_pauses_a_batch_and_lets_it_go_on(operator):
    operator.visit(PAGE)
    operator.follow("Pause batch")
    assert example().status == BatchStatus.PROCESSING
    operator.follow("Pause 1 batch")

    assert "paused. 342 contacts left to call; 5 calls in progress will finish." in operator.messages[0]
    assert "Paused: 747 contacts" in operator.text
    operator.follow("Resume batch")
    operator.follow("Resume 1 batch")

    assert "resumed, and processing again. 342 contacts left to call." in operator.messages[0]
    assert example().status == BatchStatus.PROCESSING


def test_the_keyboard_alone_is_enough(operator):
    operator.visit(PAGE)
    for name in ("Cancel batch", "Skip 342 contacts in 1 batch"):
        operator.tab_to(name)
        with operator.next_page():
            operator.press(Keys.ENTER)

    assert "cancelled. 342 contacts skipped" in operator.messages[0]


def test_a_double_click_cancels_once_and_says_that_it_is_cancelled(operator):
    operator.visit(CONFIRMATION)
    button = operator.find_element(By.CSS_SELECTOR, "button.danger")
    with operator.next_page():
        operator.execute_script("arguments[0].click(); arguments[0].click()", button)

    assert "cancelled" in operator.messages[-1]
    assert example().events.filter(status=BatchStatus.CANCELLED).count() == 1
    assert example().skipped == 342


def test_going_back_and_pressing_again_is_harmless(operator):
    operator.visit(CONFIRMATION)
    operator.follow("Skip 342 contacts in 1 batch")
    operator.back()

    assert "Batch is already cancelled, since" in operator.text
    assert "Nothing to cancel" in operator.text


def violations(chromium):
    """What axe says against the page: it knows the rules for contrast, names, landmarks and headings."""
    return [
        (rule["id"], *node["target"])
        for rule in Axe().run(chromium)["violations"]
        # Django's search box is labelled by a picture with a text, which this version does not count as visible.
        if rule["id"] != "label-title-only"
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("address", [BATCHES, PAGE, CONFIRMATION, PAUSE, CONTACTS])
def test_a_page_is_fit_for_everybody_on_a_desk_and_on_a_telephone_in_light_and_in_dark(operator, address):
    Agency.objects.filter(slug="harbour-pine").update(name="harbour_and_pine_outbound_operations_" * 4)
    for width, scheme in product((1280, 360), ("light", "dark")):
        operator.look(width=width, scheme=scheme)
        operator.visit(address)

        assert violations(operator) == []
        assert operator.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        assert operator.complaints() == []


def test_no_part_of_a_bar_is_told_by_its_colour_alone(operator):
    operator.visit(PAGE)

    patterns = operator.execute_script(
        """
        return Array.from(document.querySelectorAll('.batch-now .legend line'), line => {
            const style = getComputedStyle(line);
            return style.stroke === 'none' ? 'nothing' : style.strokeWidth + ' ' + style.strokeDasharray;
        })
        """
    )
    assert len(set(patterns)) == len(patterns) == 5


def test_no_page_asks_for_what_the_security_policy_forbids(operator):
    for address in ("/admin/", "/admin/password_change/", "/docs"):
        operator.visit(address)
        operator.wait_for({"/docs": "calls-batch-cancel"}.get(address, "operator"))
        assert operator.complaints() == []


def test_what_the_security_policy_forbids_does_not_run(operator):
    operator.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script)"
    )

    assert operator.execute_script("return window.ran") is None
    assert operator.complaints() != []
