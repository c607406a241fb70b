"""Take screenshots of every part of the running page: on a desktop, on a phone, and in dark mode.

python spaces/mll_select/screenshots.py http://127.0.0.1:7860 [--out screenshots]
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

BROWSER_OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
VIEWS = {"desktop": (1280, 900, "light"), "phone": (390, 844, "light"), "dark": (1280, 900, "dark")}
_PATIENCE = 30_000  # milliseconds
_SETTLE = 800


def walk(page: Page, shot: Callable[[str], None]) -> None:
    """Use the page as a visitor would.

    Args:
        page: The page, just opened.
        shot: Takes a screenshot with a name.
    """
    expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=_PATIENCE)
    shot("1-start")
    page.get_by_role("button", name="Weather and sky").click()
    expect(page.get_by_role("textbox", name="Classes")).to_have_value(re.compile("sun"), timeout=_PATIENCE)
    page.get_by_role("button", name="Number of models and limits").click()
    page.get_by_role("spinbutton").first.fill("3")
    page.get_by_role("spinbutton").first.press("Tab")
    page.wait_for_timeout(_SETTLE)
    page.get_by_role("button", name="Find models", exact=True).click()
    expect(page.locator("#mll-cost .main-svg").first).to_be_visible(timeout=_PATIENCE)
    page.wait_for_timeout(_SETTLE)
    shot("2-found")
    page.get_by_role("tab", name="Try", exact=True).click()
    page.wait_for_timeout(_SETTLE)
    shot("3-try")
    page.locator("button:has(img)").first.click()
    expect(
        page.get_by_role("button", name="Remove Image").or_(page.get_by_role("button", name="Clear"))
    ).to_be_visible()
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("table", name="Most probable classes")).to_be_visible(timeout=_PATIENCE)
    page.wait_for_timeout(_SETTLE)
    shot("4-tried")
    page.get_by_role("tab", name="Explore").click()
    expect(page.locator("#mll-strengths .main-svg").first).to_be_visible(timeout=_PATIENCE)
    page.get_by_role("textbox", name="Concept").fill("umbrella")
    page.get_by_role("button", name="Show the best models").click()
    expect(page.get_by_role("table", name="Best at umbrella")).to_be_visible(timeout=_PATIENCE)
    page.get_by_label("Compare with").click()
    page.get_by_role("option").nth(2).click()
    expect(page.get_by_role("table", name="Concepts with the most significant differences")).to_be_visible(
        timeout=_PATIENCE
    )
    page.wait_for_timeout(_SETTLE)
    shot("5-explore")
    page.get_by_role("tab", name="Models", exact=True).click()
    expect(page.get_by_role("table", name="Measured models")).to_be_visible(timeout=_PATIENCE)
    page.wait_for_timeout(_SETTLE)
    shot("6-models")
    page.get_by_role("tab", name="Find", exact=True).click()
    page.get_by_role("textbox", name="Classes").fill("dog, Dog")
    page.get_by_role("button", name="Find models", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible(timeout=_PATIENCE)
    shot("7-mistake")


def main() -> int:
    """Take all screenshots; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    parser.add_argument("--view", choices=VIEWS, action="append", help="only these (default: all)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER_OPTIONS)
        for view in args.view or VIEWS:
            width, height, scheme = VIEWS[view]
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(args.url)
            walk(page, lambda name, page=page, view=view: _shoot(page, args.out / f"{view}-{name}.png"))
            page.close()
        browser.close()
    return 0


def _shoot(page: Page, path: Path) -> None:
    page.screenshot(path=path, full_page=True)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
