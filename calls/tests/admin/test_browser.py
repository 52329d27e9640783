"""The admin end to end: a real server, a real browser and the demo's data."""

import os
from io import StringIO
from itertools import product
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from django.conf import global_settings
from django.core.management import call_command
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from calls.api.schema import EXAMPLE_BATCH_ID
from calls.audit import Source
from calls.models import Agency, CallBatch
from calls.statuses import BatchStatus
from calls.tests.support.admin_pages import AGENCIES, BATCHES, CONTACTS
from calls.tests.support.browser import browser, needs_chromium
from calls.tests.support.factories import STAFF_ACTOR
from calls.tests.support.server import database_url, gunicorn

pytestmark = [
    needs_chromium,
    pytest.mark.acceptance,
    pytest.mark.not_adopted,
    pytest.mark.django_db(transaction=True),
]

PAGE = f"{BATCHES}{EXAMPLE_BATCH_ID}/change/"
CONFIRMATION = f"{BATCHES}cancel/?ids={EXAMPLE_BATCH_ID}"
PAUSE = f"{BATCHES}pause/?ids={EXAMPLE_BATCH_ID}"
REPLACEMENT = f"{BATCHES}{EXAMPLE_BATCH_ID}/replace/"
SCREENSHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def window(django_db_setup):
    with gunicorn(database_url(), DJANGO_DEBUG="1") as server, browser(f"http://{server}") as chromium:
        yield chromium


@pytest.fixture
def chromium(db, settings, window):
    """The browser at the sign-in page of a fresh demo."""
    settings.DEBUG = True
    settings.PASSWORD_HASHERS = global_settings.PASSWORD_HASHERS
    call_command("demo", stdout=StringIO())
    window.clear_session()
    window.set_window()
    window.visit("/admin/")
    return window


@pytest.fixture
def operator(chromium):
    """The browser with the operator signed in."""
    chromium.sign_in("operator", "operator")
    return chromium


def example():
    return CallBatch.objects.get(pk=EXAMPLE_BATCH_ID)


def take_screenshot(chromium, name):
    """Save a screenshot for the README if SCREENSHOTS names a folder."""
    if SCREENSHOTS:
        height = chromium.execute_script("return document.documentElement.scrollHeight")
        chromium.set_window(height=min(height, 900))
        chromium.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))
        chromium.set_window()


def test_an_operator_signs_in_finds_a_batch_cancels_it_and_reads_who_did_it(chromium):
    chromium.sign_in("operator", "operator")
    chromium.click("Call batches")
    take_screenshot(chromium, "list")
    chromium.type("q", "harbour")
    chromium.click(EXAMPLE_BATCH_ID)
    assert "Harbour & Pine: Spring check-in" in chromium.text
    take_screenshot(chromium, "batch")

    chromium.click("Cancel batch")
    assert example().status == BatchStatus.PROCESSING
    take_screenshot(chromium, "confirmation")
    chromium.click("Skip 342 contacts in 1 batch")

    assert chromium.messages == [
        f"Batch {EXAMPLE_BATCH_ID} (Harbour & Pine, Spring check-in): cancelled."
        " 342 contacts skipped; 5 calls in progress will finish."
    ]
    assert "Cancelled: 747 contacts" in chromium.text
    when = example().completed_at
    assert f"{when:%Y-%m-%d %H:%M:%S} UTC Cancelled operator (staff) admin 342" in chromium.text
    take_screenshot(chromium, "cancelled")


def test_several_batches_are_selected_in_the_list_and_cancelled_together(operator):
    operator.visit(f"{BATCHES}?agency=bluebell")
    operator.find_element(By.ID, "action-toggle").click()
    operator.find_element(By.NAME, "action").send_keys("Cancel selected batches")
    operator.click("Go")
    assert "Batch is already cancelled, since" in operator.text

    operator.click("Skip 234 contacts in 2 batches")

    assert operator.current_url.endswith(f"{BATCHES}?agency=bluebell")
    assert sorted(message.split(": ", 1)[1][:20] for message in operator.messages) == [
        "cancelled. 210 conta",
        "cancelled. 24 contac",
    ]


def test_a_batch_that_the_dialler_starts_while_the_operator_selects_it_is_cancelled(operator):
    pending = CallBatch.objects.get(status=BatchStatus.PENDING)
    operator.visit(f"{BATCHES}?status=pending")
    operator.find_element(By.ID, "action-toggle").click()
    operator.find_element(By.NAME, "action").send_keys("Cancel selected batches")
    CallBatch.objects.filter(pk=pending.pk).update(status=BatchStatus.PROCESSING)

    operator.click("Go")
    operator.click("Skip 40 contacts in 1 batch")

    pending.refresh_from_db()
    assert pending.status == BatchStatus.CANCELLED
    assert "cancelled. 40 contacts skipped" in operator.messages[0]


def test_an_operator_pauses_and_resumes_a_batch(operator):
    operator.visit(PAGE)
    operator.click("Pause batch")
    assert example().status == BatchStatus.PROCESSING
    operator.click("Pause 1 batch")

    assert "paused. 342 contacts left to call; 5 calls in progress will finish." in operator.messages[0]
    assert "Paused: 747 contacts" in operator.text
    operator.click("Resume batch")
    operator.click("Resume 1 batch")

    assert "resumed, and processing again. 342 contacts left to call." in operator.messages[0]
    assert example().status == BatchStatus.PROCESSING


def test_a_batch_can_be_cancelled_with_the_keyboard_alone(operator):
    operator.visit(PAGE)
    for name in ("Cancel batch", "Skip 342 contacts in 1 batch"):
        operator.tab_to(name)
        with operator.next_page():
            operator.press(Keys.ENTER)

    assert "cancelled. 342 contacts skipped" in operator.messages[0]


def test_a_double_click_cancels_once(operator):
    operator.visit(CONFIRMATION)
    button = operator.find_element(By.CSS_SELECTOR, "button.danger")
    with operator.next_page():
        operator.execute_script("arguments[0].click(); arguments[0].click()", button)

    assert "cancelled" in operator.messages[-1]
    assert example().events.filter(status=BatchStatus.CANCELLED).count() == 1
    assert example().skipped == 342


def test_going_back_to_the_confirmation_shows_that_the_batch_is_already_cancelled(operator):
    operator.visit(CONFIRMATION)
    operator.click("Skip 342 contacts in 1 batch")
    operator.back()

    assert "Batch is already cancelled, since" in operator.text
    assert "Nothing to cancel" in operator.text


def test_an_operator_holds_an_agency_cancels_its_batches_and_replaces_one(operator):
    operator.visit(AGENCIES)
    operator.click("Harbour & Pine")
    operator.click("Hold agency")
    operator.type("reason", "Wrong script")
    assert operator.messages == ["Harbour & Pine is on hold. 5 calls in progress will finish."]
    assert "Held operator (staff) admin Wrong script" in operator.text

    operator.click("Cancel all batches of this agency")
    assert "Harbour & Pine has been on hold since" in operator.text
    operator.click("Cancel all batches of this agency")
    assert "5 calls in progress will finish." in operator.messages[0]
    operator.visit(PAGE)
    operator.click("Create a replacement")
    operator.type("calls_per_minute", Keys.END, Keys.BACKSPACE)

    assert operator.messages == [f"Created this batch with 342 contacts of batch {EXAMPLE_BATCH_ID}."]
    assert CallBatch.objects.get(replaces=EXAMPLE_BATCH_ID).calls_per_minute == 3
    assert "Harbour & Pine has been on hold since" in operator.text
    operator.click(f"batch {EXAMPLE_BATCH_ID}")
    assert "Replaced by batch" in operator.text


def violations(chromium):
    """Return the accessibility rules that the page breaks (contrast, names, landmarks, headings), and where."""
    return [
        (rule["id"], *node["target"])
        for rule in Axe().run(chromium)["violations"]
        # Django labels its search box with an image that has a text. This version of axe does not count it as visible.
        if rule["id"] != "label-title-only"
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(
    "address",
    [
        *(BATCHES, PAGE, CONFIRMATION, PAUSE, REPLACEMENT, CONTACTS, f"{CONTACTS}?batch={EXAMPLE_BATCH_ID}"),
        *(AGENCIES, *(f"{AGENCIES}{{pk}}/{page}/" for page in ("change", "hold", "release", "cancel-all"))),
    ],
)
def test_pages_are_accessible_on_desktop_and_phone_in_light_and_dark(operator, address):
    agency = Agency.objects.get(slug="harbour-pine")
    Agency.objects.update(name="harbour_and_pine_outbound_operations_" * 4)
    agency.hold(actor=STAFF_ACTOR, source=Source.API, reason="wrong_script_" * 30)
    address = address.format(pk=agency.pk)
    for width, scheme in product((1280, 360), ("light", "dark")):
        operator.set_window(width=width, scheme=scheme)
        operator.visit(address)

        assert violations(operator) == []
        assert operator.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        assert operator.policy_violations() == []


def test_the_page_of_a_lockout_is_accessible_and_leads_back(chromium):
    for _ in range(10):
        chromium.visit("/admin/")
        chromium.sign_in("operator", "wrong")
    assert "Too many failed sign-ins" in chromium.text

    for width, scheme in product((1280, 360), ("light", "dark")):
        chromium.set_window(width=width, scheme=scheme)
        assert violations(chromium) == []
    assert chromium.policy_violations() == []
    chromium.set_window()
    chromium.click("Back to the sign-in page")
    chromium.sign_in("demo", "demo")
    assert "Call batches" in chromium.text


def test_the_parts_of_a_progress_bar_differ_in_more_than_colour(operator):
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


def test_no_page_violates_the_security_policy(operator):
    for address in ("/admin/", "/admin/password_change/", "/docs"):
        operator.visit(address)
        operator.wait_for({"/docs": "calls-batch-cancel"}.get(address, "operator"))
        assert operator.policy_violations() == []


def test_the_security_policy_blocks_inline_scripts(operator):
    operator.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script)"
    )

    assert operator.execute_script("return window.ran") is None
    assert operator.policy_violations() != []
