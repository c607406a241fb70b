"""The Space as visitors and programs meet it: over HTTP, as an MCP server, and in a browser."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import warnings
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image

from mll_hf import Selection
from mll_hf.models import resolve_model
from space_worlds import HARM, free_port, harmful_graph, load_app, make_labels, make_library, make_store, signs_graph
from worlds import CAT, make_label

gradio_client = pytest.importorskip("gradio_client")
TOOLS = {"select_models", "explain_class"}
LOOPBACK = ("127.0.0.1", "localhost")
BROWSER_OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]  # fmt: skip
PATIENCE = 20_000  # milliseconds


@pytest.fixture(scope="module")
def url(tmp_path_factory, tiny_open_clip):
    """The Space with labels of three models that cannot run and of one that can, on two graphs."""
    graph = harmful_graph()
    hits = [1] * 7
    hits[CAT] = 10
    runnable = make_label(graph, hits, model=resolve_model(f"local-dir:{tiny_open_clip}"))
    signs = signs_graph()
    on_signs = [make_label(signs, repo_id="org/even"), make_label(signs, repo_id="org/only-signs")]
    labels = make_labels(graph, [runnable, *on_signs])
    folder = make_store(tmp_path_factory.mktemp("labels"), labels, graph, signs)
    port = free_port()
    page = load_app().serve(make_library(folder), server_port=port, prevent_thread_lock=True, quiet=True)
    yield f"http://127.0.0.1:{port}"
    page.close()


# --- programs ---


@pytest.fixture(scope="module")
def client(url):
    return gradio_client.Client(url, verbose=False)


def test_select_models(client):
    answer = client.predict(["cat", "dog"], k=2, domain="photo", max_gflops=50, api_name="/select_models")
    ids = [model["id"] for model in answer["models"]]
    assert "org/dogs" not in ids  # it costs more
    assert sum(model["chosen"] for model in answer["models"]) == 2
    assert [of["name"] for of in answer["classes"]] == ["cat", "dog"]
    assert all(0 <= of["recall"] <= 1 and 0 <= of["coverage"] <= 1 for of in answer["classes"])
    assert len(answer["answer"]) == 3
    assert {of["based_on"] for of in answer["models"]} == {"label"}
    assert "SelectionConfig(k=2, max_gflops=50.0)" in answer["code"]


def test_the_tools_of_the_mcp_server(url):
    pytest.importorskip("mcp")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with (
            streamablehttp_client(f"{url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert {name.rsplit("mll_select_", 1)[-1] for name in tools} == TOOLS
            select = next(tool for name, tool in tools.items() if name.endswith("select_models"))
            assert "vision-language models" in select.description
            assert select.inputSchema["properties"]["classes"]["type"] == "array"
            assert select.inputSchema["properties"]["classes"]["description"].startswith("Two or more class names")
            found = await session.call_tool(select.name, {"classes": ["cat", "dog"], "k": 1})
            assert not found.isError
            assert "org/even" in found.content[0].text
            explain = next(name for name in tools if name.endswith("explain_class"))
            assert "definition" in (await session.call_tool(explain, {"class_name": "cat"})).content[0].text
            wrong = await session.call_tool(select.name, {"classes": ["cat"]})
            assert "one class leaves nothing" in wrong.content[0].text

    asyncio.run(talk())


# --- a browser ---


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium. Where MLL_NEED_BROWSER is set, a missing one is a failure."""
    executable = shutil.which("chromium")
    if executable is None or importlib.util.find_spec("playwright") is None:
        missing = "chromium" if executable is None else "playwright"
        if os.environ.get("MLL_NEED_BROWSER"):
            pytest.fail(f"{missing} is not installed, and MLL_NEED_BROWSER says that it is needed")
        pytest.skip(f"{missing} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=BROWSER_OPTIONS)
        yield started.new_context(reduced_motion="reduce")  # one for all, which loads the page's scripts once
        started.close()


@pytest.fixture(scope="module")
def tabs():
    """Tabs that no test is using now. A tab that is used again has compiled the page's scripts already."""
    return []


@pytest.fixture
def visit(browser, url, tabs):
    """Opens the page; afterwards checks that no other machine was requested and no script failed."""
    pages, asked, failed = [], [], []

    def note(request):
        if urlsplit(request.url).hostname not in LOOPBACK and not request.url.startswith(("data:", "blob:")):
            asked.append(request.url)  # which cannot be reached: BROWSER_OPTIONS. A route would switch the cache off

    def fail(error):
        failed.append(str(error))

    def open_page(width=1280, scheme="light", address=""):
        page = tabs.pop() if tabs else browser.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.set_default_timeout(PATIENCE)
        page.on("request", note)
        page.on("pageerror", fail)
        page.goto(f"{url}/{address}")
        page.get_by_role("heading", level=1).wait_for()
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.goto("about:blank")
        page.remove_listener("request", note)
        page.remove_listener("pageerror", fail)
        tabs.append(page)
    assert asked == []
    assert failed == []


def find(page, classes):
    page.get_by_role("textbox", name="Classes").fill(classes)
    page.get_by_role("button", name="Find models", exact=True).click()


def find_by_keyboard(page, classes):
    """The keyboard alone is enough."""
    page.get_by_role("textbox", name="Classes").focus()
    page.keyboard.type(classes)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "Find models":
            break
    page.keyboard.press("Enter")


def open_tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def fits(page):
    """Whether nothing has to be scrolled sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def hard_to_reach(page):
    """What axe-core finds serious or worse, without Gradio's footer and its filter of tables."""
    found = importlib.util.find_spec("axe_playwright_python")  # brings axe-core
    if found is None:
        assert not os.environ.get("MLL_NEED_BROWSER"), "axe-playwright-python is not installed"
        warnings.warn("axe-playwright-python is not installed: accessibility is not checked", stacklevel=1)
        return []
    if page.evaluate("!window.axe"):
        page.evaluate(Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8"))
    violations = page.evaluate("""axe.run({exclude: [['footer'], ['.search-input']]}, {resultTypes: ['violations']})
        .then(found => found.violations)""")
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"]])
        for one in violations
        if one["impact"] in ("serious", "critical")
    ]


def check_tab(page, name):
    """Nothing is cut off, and axe-core finds nothing serious, such as a control without a name.

    MLL_SCREENSHOTS=DIR keeps a picture, for people to look at.
    """
    assert fits(page)
    assert hard_to_reach(page) == []
    if folder := os.environ.get("MLL_SCREENSHOTS"):
        page.wait_for_timeout(800)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.mark.parametrize(("width", "scheme", "find"), [(1280, "light", find_by_keyboard), (390, "dark", find)])
def test_a_visit(visit, width, scheme, find):
    page = visit(width, scheme)
    page.get_by_text("Your ranking will appear here").wait_for()
    find(page, "cat, dog")
    ranking = page.get_by_role("table", name="Ranking")
    ranking.wait_for()
    assert ranking.get_by_role("link", name="org/even").get_attribute("href").endswith("/org/even")
    page.locator("#mll-cost .main-svg").first.wait_for()
    page.get_by_role("table", name="Matches").wait_for()
    page.get_by_text("from mll_hf import").first.wait_for()
    check_tab(page, f"find-{width}-{scheme}")
    assert page.get_by_role("status").filter(has_text="Use org/even").count() == 1  # announced

    open_tab(page, "Explore")
    page.get_by_role("link", name="org/cats").first.wait_for()
    assert page.locator("#mll-models").get_by_text("org/").first.inner_text() == "org/even"
    page.get_by_text("Labels that are left out").click()
    page.get_by_text("org/only-signs on signs: the model has no label on the reference graph").wait_for()
    check_tab(page, f"explore-{width}-{scheme}")

    open_tab(page, "Model")
    page.get_by_role("table", name="About org/even").wait_for()
    check_tab(page, f"model-{width}-{scheme}")

    open_tab(page, "Concept")
    page.get_by_role("textbox", name="Concept").fill("cat")
    page.get_by_role("textbox", name="Concept").press("Enter")
    page.get_by_role("table", name="Best at cat on tiny").wait_for()
    assert page.url.endswith("?concept=cat")
    check_tab(page, f"concept-{width}-{scheme}")


def test_models_and_concepts_have_addresses(visit):
    page = visit(address="?concept=dog")
    page.get_by_role("table", name="Best at dog").wait_for()
    assert page.get_by_role("tab", selected=True).inner_text() == "Concept"
    page.get_by_role("link", name="org/dogs").click()
    page.get_by_role("table", name="About org/dogs").wait_for()
    page.goto(f"{page.url.partition('?')[0]}?model={quote(HARM)}")
    page.get_by_role("alert").filter(has_text="is not among the known models").wait_for()
    assert page.evaluate("window.harmed") is None


def test_images_are_classified_or_tried(visit, tmp_path):
    page = visit()
    page.get_by_role("button", name="Number of models and limits").click()
    page.get_by_label("Maximum GFLOPs per image").first.fill("0.6")  # leaves the model that can be run
    page.get_by_label("Maximum GFLOPs per image").first.press("Tab")
    find(page, "cat, dog")
    page.get_by_role("table", name="Ranking").wait_for()
    open_tab(page, "Try")
    page.get_by_role("button", name="Use our example images").click()
    page.get_by_text("1-sun").first.wait_for()
    page.get_by_role("button", name="Try the models").click()
    page.get_by_role("table", name="Predictions").wait_for()
    page.get_by_role("status").filter(has_text="5 images classified by").wait_for()
    assert page.get_by_role("table", name="Predictions").get_by_role("row").count() == 6
    check_tab(page, "classified")

    images = [tmp_path / f"{n}.png" for n in range(17)]
    for n, path in enumerate(images):
        Image.effect_noise((32, 32), 10 + n).save(path)
    (tmp_path / "text.png").write_text("no image")
    page.get_by_role("button", name="Clear").first.click()
    page.locator("input[type=file]").last.set_input_files([*images, tmp_path / "text.png"])
    page.get_by_text("16").first.wait_for()
    page.get_by_role("button", name="Try the models").click()
    page.get_by_text("1 model tried on 17 images. 1 image could not be read").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download selection.json").click()
    selection = Selection.from_json(json.loads(Path(download.value.path()).read_text()))
    assert selection.trial.n_images == 17
    check_tab(page, "tried")


def test_errors_for_visitors_are_one_line_and_scripts_in_texts_do_not_run(visit):
    page = visit()
    for classes, said in (
        ("", "No class names yet"),
        ("cat", "One class leaves nothing"),
        (f"{HARM}, {HARM}", "repeats"),
    ):
        find(page, classes)
        page.get_by_role("alert").filter(has_text=said).wait_for()
        assert not page.get_by_text("Take it with you").is_visible()
    find(
        page,
        f"cat, car\n{HARM}\n**bold** [x](javascript:window.harmed=1)\n${{window.harmed=1}} {{{{x}}}}\n🐈 <b>fat</b>",
    )
    page.get_by_role("table", name="Ranking").wait_for()
    page.locator("#mll-cost .main-svg").first.wait_for()
    open_tab(page, "Try")
    page.get_by_role("button", name="Try the models").click()
    page.get_by_role("alert").filter(has_text="No image yet").wait_for()
    open_tab(page, "Concept")
    page.get_by_role("textbox", name="Concept").fill(HARM)
    page.get_by_role("button", name="Show the best models").click()
    page.get_by_text("The tests have no concept named").wait_for()
    assert page.evaluate("window.harmed") is None
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("a[href^=javascript]").count() == 0
    assert page.locator(".mll b").count() == 0
