"""A real browser: Debian's Chromium, headless."""

import shutil
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no browser: install Debian's packages chromium and chromium-driver"
)

# Some of these keep Chromium from looking for updates and from contacting Google's hosts.
OPTIONS = """
    headless no-sandbox disable-gpu disable-quic disable-dev-shm-usage no-first-run disable-background-networking
    disable-component-update disable-sync
""".split()


class Browser(webdriver.Chrome):
    """Chromium, driven by the texts of buttons and links and by the keyboard."""

    def __init__(self, base):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for option in OPTIONS:
            options.add_argument(f"--{option}")
        super().__init__(options, Service(DRIVER))
        self.base = base

    def clear_session(self):
        """Clear cookies, storage and the console, so that the user is signed out."""
        self.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": self.base, "storageTypes": "all"})
        self.get_log("browser")

    def set_window(self, *, width=1280, height=800, scheme="light"):
        """Set the size of the window and a light or dark colour scheme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def visit(self, path):
        self.get(self.base + path)

    @contextmanager
    def next_page(self):
        """Wait until the block has led to another page."""
        here = self.find_element(By.TAG_NAME, "html")
        yield
        self.wait_until(staleness_of(here))

    def click(self, text):
        """Click the link or button with this text and wait for the next page."""
        with self.next_page():
            self.find_element(By.XPATH, f"//*[self::a or self::button][normalize-space()='{text}']").click()

    def type(self, name, *keys):
        """Type into the field with this name, press Enter and wait for the next page."""
        with self.next_page():
            self.find_element(By.NAME, name).send_keys(*keys, Keys.ENTER)

    def sign_in(self, name, password):
        self.find_element(By.NAME, "username").send_keys(name)
        self.type("password", password)

    def wait_for(self, text):
        """Wait until the page shows this text, in upper or lower case."""
        self.wait_until(lambda _: text.lower() in self.find_element(By.TAG_NAME, "body").text.lower())

    def wait_until(self, condition):
        # Between two pages the driver may find neither and raise an error.
        WebDriverWait(self, 20, ignored_exceptions=[WebDriverException]).until(condition)

    def press(self, *keys):
        """Press keys in the element that has the focus."""
        webdriver.ActionChains(self).send_keys(*keys).perform()

    def tab_to(self, name):
        """Press Tab until the element with this accessible name has the focus."""
        for _ in range(60):
            self.press(Keys.TAB)
            if self.switch_to.active_element.accessible_name == name:
                return
        raise AssertionError(f"no Tab leads to {name!r}")

    @property
    def text(self):
        return self.find_element(By.TAG_NAME, "main").text

    @property
    def messages(self):
        return [message.text for message in self.find_elements(By.CSS_SELECTOR, ".messagelist li")]

    def policy_violations(self):
        """Return what the browser wrote to its console about the content security policy."""
        return [entry["message"] for entry in self.get_log("browser") if "Content Security Policy" in entry["message"]]


@contextmanager
def browser(base):
    chromium = Browser(base)
    try:
        yield chromium
    finally:
        chromium.quit()
