"""Take the screenshot of the Space that the README shows: spaces/mll_select/answer.png.

    MLL_LABELS=published python scripts/picture_of_space.py

Starts the Space, enters three classes in a browser (Debian's chromium, or playwright's), and saves a screenshot.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

from command_line import script_parser

APP = Path(__file__).resolve().parents[1] / "spaces" / "mll_select" / "app.py"
URL = "http://127.0.0.1:7860"
CLASSES = "golden retriever, tabby cat, fire truck"


def main() -> int:
    """Run the script."""
    parser = script_parser(str(__doc__))
    parser.add_argument("--out", type=Path, default=APP.with_name("answer.png"), metavar="FILE")
    args = parser.parse_args()
    variables = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SERVER_PORT": "7860"}
    with subprocess.Popen([sys.executable, str(APP)], env=variables, stdout=subprocess.DEVNULL) as server:
        try:
            while not is_ready():
                if server.poll() is not None:
                    raise SystemExit("the Space does not start")
                time.sleep(1)
            take(URL, args.out)
        finally:
            server.terminate()
    print(args.out)
    return 0


def is_ready() -> bool:
    try:
        urllib.request.urlopen(URL, timeout=10).close()
    except OSError:
        return False
    return True


def take(url: str, out: Path) -> None:
    """Enter the classes and save the page from the question to the ranking."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 640}, color_scheme="light")
        page.goto(url)
        page.get_by_role("heading", level=1).wait_for()
        page.get_by_role("textbox", name="Classes").fill(CLASSES)
        page.get_by_role("button", name="Find models", exact=True).click()
        answer = page.get_by_role("status").filter(has_text="Use ")
        answer.wait_for(timeout=120_000)
        page.get_by_role("table", name="Ranking").wait_for()
        answer.scroll_into_view_if_needed()
        page.evaluate("top => window.scrollBy(0, top - 16)", answer.bounding_box()["y"])
        page.wait_for_timeout(2000)  # until animations have ended
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
