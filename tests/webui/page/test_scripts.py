"""javascript/ in an empty page: one global, and silence where nothing changes."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser

from tests.webui.browser import JAVASCRIPT

HOST = Path(__file__).resolve().parents[1] / "standin" / "page.js"
COUNT = """
    window.intervals = 0;
    window.lastTimer = performance.now();
    const [interval, timeout] = [window.setInterval, window.setTimeout];
    window.setInterval = (...args) => { window.intervals += 1; return interval(...args); };
    window.setTimeout = (...args) => { window.lastTimer = performance.now(); return timeout(...args); };
"""
QUIET = 1500  # ms, more than the longest wait of a script that follows something


def test_scripts_add_one_global_and_come_to_rest(browser: Browser) -> None:
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    ours = "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in sorted(JAVASCRIPT.glob("*.js")))
    page.set_content(
        f"<head><script>{COUNT}</script><script>{HOST.read_text(encoding='utf-8')}</script>"
        f"<script>window.known = new Set(Object.getOwnPropertyNames(window));</script>{ours}"
        "<script>window.added = Object.getOwnPropertyNames(window).filter((name) => !known.has(name));</script></head>"
        '<body><div id="facesnap_txt2img_canvas"></div><div id="txt2img_prompt"></div></body>'
    )
    page.evaluate("() => document.body.append('loaded')")
    page.wait_for_function("facesnap.canvases.txt2img && facesnap.canvases.txt2img.root.isConnected")
    assert page.evaluate("window.added.filter((name) => name !== 'known')") == ["facesnap"]
    page.wait_for_function(f"performance.now() - window.lastTimer > {QUIET}", timeout=30_000)
    assert page.evaluate("window.intervals") == 0
    assert not faults
    page.close()
