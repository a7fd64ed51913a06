"""Somebody at a browser: looks for what is written on links, buttons and fields, and uses it."""

from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.visiting import PASSWORD

PATIENCE_S = 30
# Selenium's own pauses are half a second.
POLL_S = 0.05
HEIGHT = 900


class Visitor:
    """A person with a browser."""

    def __init__(self, chromium: Chrome, address: str, screenshots: Path | None) -> None:
        """Sit down at a wide window.

        Args:
            chromium: The browser.
            address: Where the project is served.
            screenshots: Where to leave screenshots, None for nowhere.
        """
        self.chromium = chromium
        self._address = address
        self._screenshots = screenshots
        self.look(width=1280)

    def go(self, path: str) -> None:
        """Type an address."""
        self.chromium.get(f"{self._address}{path}")

    def log_in(self, name: str) -> None:
        """Fill in the login page."""
        self._wait_for(By.NAME, "username").send_keys(name)
        password = self._wait_for(By.NAME, "password")
        password.send_keys(PASSWORD)
        password.submit()

    def fill(self, label: str, text: str) -> None:
        """Type into the field with this label."""
        element = self._wait_for(
            By.XPATH, f"//input[@id = //label[normalize-space()='{label}']/@for]"
        )
        element.clear()
        element.send_keys(text)

    def press(self, text: str) -> None:
        """Press the button or link that says this."""
        self._wait_for(
            By.XPATH,
            f"//a[normalize-space()='{text}'] | //button[normalize-space()='{text}']"
            f" | //input[@type='submit' and @value='{text}']",
        ).click()

    def choose_all(self, action: str) -> None:
        """Tick all rows of the list, and press the button for one of its actions."""
        self._wait_for(By.ID, "action-toggle")
        self.chromium.execute_script(
            "document.getElementById('action-toggle').click();"
            "document.querySelector('select[name=action]').value = arguments[0];"
            "document.querySelector('button[name=index]').click()",
            action,
        )

    def reads(self, text: str) -> bool:
        """Tell whether a text comes up on the page."""
        WebDriverWait(self.chromium, PATIENCE_S, POLL_S).until(
            lambda _: text in self.text, f"{text!r} is not on the page: {self.text}"
        )
        return True

    def press_part(self, text: str) -> None:
        """Press the link that says this among other things."""
        self._wait_for(By.XPATH, f"//a[contains(normalize-space(), '{text}')]").click()

    def sees(self, text: str) -> bool:
        """Tell whether a text is on the page, as such or on a button, however it is spelt."""
        script = (
            "return [...document.querySelectorAll('input[type=submit]')].map(e => e.value)"
            ".concat(document.body.innerText).join(' ')"
        )
        return text.casefold() in str(self.chromium.execute_script(script)).casefold()

    @property
    def text(self) -> str:
        """What can be read on the page."""
        # In one step: between two of them the next page may come.
        script = "return document.body ? document.body.innerText : ''"
        return str(self.chromium.execute_script(script))

    def look(self, *, width: int, dark: bool = False) -> None:
        """Look through a window of this width, in light or dark mode."""
        # Django's style sheet fades from one colour to the other; what is between does not count.
        self.chromium.execute_script(
            "const still = new CSSStyleSheet();"
            "still.replaceSync('* { transition: none !important }');"
            "document.adoptedStyleSheets = [still]"
        )
        scheme = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        metrics = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width < 600}
        self.chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    @property
    def is_dark(self) -> bool:
        """Whether the page is drawn light on dark."""
        lightness = self.chromium.execute_script(
            "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"
        )
        return sum(map(int, lightness[:3])) < 3 * 128

    @property
    def sticks_out(self) -> list[str]:
        """What does not fit the window's width, tables that scroll by themselves aside."""
        return list(
            self.chromium.execute_script(
                "return [...document.querySelectorAll('#content *:not(.results *)')]"
                ".map(e => [e, e.getBoundingClientRect()])"
                ".filter(([e, box]) => box.width && (box.right > innerWidth + 1 || box.left < -1))"
                ".map(([e]) => e.outerHTML.slice(0, 200))"
            )
        )

    def find_violations(self, script: str) -> list[str]:
        """Return what axe finds wrong with the page: rule, element and why.

        Args:
            script: The source of axe-core.
        """
        self.chromium.execute_script(script)
        found = self.chromium.execute_async_script(
            "const done = arguments[0]; axe.run().then(found => done(found.violations))"
        )
        return [
            f"{each['id']}: {node['html']} {node['failureSummary']}"
            for each in found
            for node in each["nodes"]
        ]

    def keep(self, name: str) -> None:
        """Leave a screenshot, where they are wanted."""
        if self._screenshots:
            self._screenshots.mkdir(parents=True, exist_ok=True)
            self.chromium.save_screenshot(str(self._screenshots / f"{name}.png"))

    def _wait_for(self, by: str, what: str) -> WebElement:
        return WebDriverWait(self.chromium, PATIENCE_S, POLL_S).until(
            lambda driver: driver.find_element(by, what), f"there is no {what} in: {self.text}"
        )
