"""What a person does in the page, by the controls' ids."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Dialog, Locator, Page, expect

PATIENCE = 60_000  # ms; machines that run tests are busy
FONTS = "**/fonts.g*.com/**"  # Gradio 3 and 4 ask for them; there is no network here


class Driver:
    """One page of the stand-in; a real WebUI's differs in a few places (tests/live/test_page.py).

    Args:
        width: of the window in pixels. dark: the theme.
    """

    def __init__(self, browser: Browser, address: str, width: int = 1280, dark: bool = False) -> None:
        self.page: Page = browser.new_page()
        self.resize(width)
        self.page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.route(FONTS, lambda route: route.abort())
        self.page.goto(f"{address}?__theme={'dark' if dark else 'light'}")
        self.tab = "txt2img"
        self.arrive()

    def resize(self, width: int) -> None:
        """The window's width in pixels: of a desk or a phone."""
        self.page.set_viewport_size({"width": width, "height": 1400 if width > 600 else 844})

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something outside the page. Raises TimeoutError."""
        end = time.monotonic() + PATIENCE / 1000
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} is not so after {PATIENCE} ms")
            time.sleep(0.05)

    def arrive(self) -> None:
        """Wait for the page."""
        expect(self("p1_strength")).to_be_visible()

    def __call__(self, name: str) -> Locator:
        """One of FaceSnap's controls in the present tab."""
        return self.page.locator(f"#facesnap_{self.tab}_{name}").first  # Gradio 3 gives an HTML block's id twice

    def own(self, name: str) -> Locator:
        """One of the host's controls in the present tab."""
        return self.page.locator(f"#{self.tab}_{name}")

    def switch_to(self, tab: str) -> None:
        self.page.locator("#tabs > .tab-nav > button").get_by_text(re.compile(rf"^\s*{tab}\s*$", re.IGNORECASE)).click()
        self.tab = tab

    def person(self, number: int) -> None:
        self("people").locator("> .tab-nav > button", has_text=f"Person {number}").click()

    def enable(self, on: bool = True) -> None:
        self("enabled-checkbox").locator("input").set_checked(on)

    def enabled(self) -> Locator:
        return self("enabled-checkbox").locator("input")

    def upload(self, person: int, *files: Path) -> None:
        self(f"p{person}_references").locator("input[type=file]").set_input_files(files)
        expect(self(f"p{person}_thumbs").locator(".facesnap-thumbs > *")).to_have_count(len(files))

    def pick(self, name: str, word: str) -> None:
        """A radio button."""
        self(name).get_by_label(word, exact=True).check()

    def checkpoint(self, start: str) -> None:
        """An entry of the list at the top of the page."""
        chosen = self.page.locator("#setting_sd_model_checkpoint, .model_selection").first
        chosen.locator("input").first.click()
        chosen.locator("ul li", has_text=re.compile(rf"^\W*{start}")).first.click()

    def option(self, name: str, start: str) -> None:
        """An entry of a list, by how it begins."""
        self.text(name).click()
        self(name).locator("ul li", has_text=re.compile(rf"^\W*{start}")).first.click()

    def choose(self, name: str, text: str) -> None:
        """An entry of a list that takes other words too, typed."""
        box = self.text(name)
        box.fill(text)
        box.press("Enter")
        box.blur()

    def picked(self, name: str) -> Locator:
        return self(name).locator("input:checked")

    def number(self, name: str) -> Locator:
        """A slider's box."""
        return self(name).locator("input[type=number]")

    def text(self, name: str) -> Locator:
        return self(name).locator("textarea, input:not([type=file])").first

    def fill(self, name: str, text: str) -> None:
        box = self.text(name)
        box.fill(text)
        box.blur()

    def open(self, name: str) -> None:
        """An accordion inside."""
        self(name).locator(".label-wrap").first.click()

    def delete_identity(self, person: int, sure: bool) -> str:
        """Click, and answer the question; gives the question."""
        asked: list[str] = []

        def answer(dialog: Dialog) -> None:
            asked.append(dialog.message)
            (dialog.accept if sure else dialog.dismiss)()

        self.page.once("dialog", answer)
        with self.page.expect_event("dialog"):  # Gradio may ask after the click is done
            self(f"p{person}_delete").click()
        return asked[0]

    def generate(self) -> Locator:
        """Click, and wait for a picture or a message; gives the box with the infotext."""
        self.own("generate").click()
        self.page.wait_for_function(
            "([text, log]) => document.querySelector(text).value || document.querySelector(log)",
            arg=[f"#{self.tab}_infotext textarea", f"#html_log_{self.tab} .error"],
        )
        return self.own("infotext").locator("textarea")

    def paste(self, infotext: str) -> None:
        self.own("prompt").locator("textarea").fill(infotext)
        self.own("paste").click()
        expect(self.own("prompt").locator("textarea")).to_have_value(infotext.split("\n")[0])

    def shoot(self, name: str, what: Locator | None = None) -> None:
        """A screenshot for people, where FACESNAP_SCREENSHOTS asks for them."""
        folder = os.environ.get("FACESNAP_SCREENSHOTS")
        if not folder:
            return
        file = Path(folder) / f"{name}_{self.host()}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        target: Any = what or self("enabled")
        target.screenshot(path=str(file), animations="disabled")  # as they end

    def host(self) -> str:
        """What the screenshots' names end with."""
        import gradio

        return f"gradio{gradio.__version__.split('.')[0]}"

    def close(self) -> None:
        self.page.close()
        assert not self.faults, self.faults
