"""The Space as visitors and programs meet it: over HTTP, as an MCP server, and in a browser."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image

import tiny_hub
from mll_hf import Client, Selection
from mll_hf.models.source import resolve_model
from space_worlds import HARM, free_port, harmful_graph, load_app, make_labels, make_library, make_store, signs_graph
from worlds import CAT, make_label

gradio_client = pytest.importorskip("gradio_client")
TOOLS = {"select_models"}
LOOPBACK = ("127.0.0.1", "localhost")
BROWSER_OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]  # fmt: skip
PATIENCE = 60_000  # milliseconds; the machine may have other work


@pytest.fixture(scope="module")
def url(tmp_path_factory, tiny_open_clip, tiny_siglip):
    """The Space with labels of three models that cannot run and of two that can, on two graphs."""
    graph = harmful_graph()
    hits = [1] * 7
    hits[CAT] = 10
    runnable = [
        make_label(graph, hits, model=resolve_model(f"local-dir:{path}")) for path in (tiny_open_clip, tiny_siglip)
    ]
    signs = signs_graph()
    on_signs = [make_label(signs, repo_id="org/even"), make_label(signs, repo_id="org/only-signs")]
    labels = make_labels(graph, [*runnable, *on_signs])
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
    assert all(model["accuracy"] == "not known" or "to" in model["accuracy"] for model in answer["models"])
    assert answer["answer"][1].startswith("The choice matters: no other")
    assert "k=2, max_gflops=50.0" in answer["code"]


def test_20_questions_at_once(client):
    asked = [client.submit(["cat", "dog", f"thing {n}"], api_name="/select_models") for n in range(20)]
    assert all(job.result()["answer"][0].startswith("Use ") for job in asked)


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
        page.locator("h1, .mll table, .mll-alert").first.wait_for()
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


def find(page, classes, images=()):
    page.get_by_role("textbox", name="Classes").fill(classes)
    if images:
        page.locator("input[type=file]").first.set_input_files(images)
        page.locator(".file-preview").get_by_text(Path(images[-1]).stem).wait_for()  # shown when all are uploaded
    page.get_by_role("button", name="Find my model").click()


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


def check_page(page, name):
    """Nothing is cut off, and axe-core finds nothing serious, such as a control without a name.

    MLL_SCREENSHOTS=DIR keeps a picture, for people to look at.
    """
    assert fits(page)
    assert hard_to_reach(page) == []
    if folder := os.environ.get("MLL_SCREENSHOTS"):
        page.wait_for_timeout(800)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def show_all(page):
    page.get_by_role("button", name="All compared models").click()
    page.get_by_role("table", name="Ranking").wait_for()
    page.get_by_role("table", name="Matches").wait_for()


def test_the_page_opens_with_an_answer_and_examples_answer_at_once(visit):
    page = visit()
    answer = page.locator(".mll-answer")
    assert "org/" in answer.inner_text()  # no request needed: it is part of the page
    page.locator("#mll-cost .main-svg").first.wait_for()
    page.get_by_role("button", name="Skin lesions").click()
    page.wait_for_function("document.querySelector('textarea').value.startsWith('melanoma')")
    answer.wait_for()
    find(page, "cat, dog")
    page.get_by_role("link", name="org/even").first.wait_for()
    show_all(page)
    check_page(page, "find")


def noise(folder, count):
    paths = [folder / f"noise-{n:02}.png" for n in range(count)]
    for n, path in enumerate(paths):
        Image.effect_noise((32, 32), 10 + 5 * n).save(path)
    return paths


def test_two_clicks_fit_own_images_and_each_further_one_corrects(visit, tmp_path):
    """The clicks: choosing the files, and the button. On a phone, at night."""
    page = visit(390, "dark")
    (tmp_path / "text.png").write_text("no image")
    find(page, "cat, dog", [tmp_path / "text.png", *noise(tmp_path, 17)])
    page.get_by_text("2 models tried on 17 images. 1 file could not be read").wait_for()
    thumbnails = page.locator("#mll-images")
    assert "✓" not in thumbnails.inner_text()
    thumbnails.get_by_role("button").nth(3).click()  # one that the visitor chooses
    for told in range(1, 4):
        page.wait_for_timeout(500)  # the choice of the earlier image is cleared
        page.get_by_role("radio", name="cat" if told % 2 else "dog").check()
        page.wait_for_function(f"document.querySelector('#mll-images').innerText.split('✓').length === {told + 1}")
    page.get_by_text("the class of 14 more images").or_(
        page.get_by_text("the class of 15 more images")
    ).first.wait_for()
    show_all(page)
    check_page(page, "images")

    page.get_by_role("button", name="Take it home").click()
    page.get_by_role("button", name="Make the saved folder").click()
    with page.expect_download() as download:
        page.locator("a[href$='choice.zip']").first.click()
    folder = tmp_path / "choice"
    with zipfile.ZipFile(download.value.path()) as zipped:
        assert set(zipped.namelist()) == {"mll_selection.json", "heads.safetensors", "README.md"}
        zipped.extractall(folder)
    selection = Selection.from_pretrained(folder)
    assert (selection.trial.n_images, selection.trial.n_examples) == (17, 3)
    assert len(Client("published").load(selection).predict([tmp_path / "noise-01.png"]).classes) == 1


@pytest.mark.filterwarnings("ignore:Gradio does not support OAuth")  # its login is a mock here
def test_a_fit_is_published_with_the_login_of_the_visitor(browser, api, tmp_path, monkeypatch, tiny_open_clip):
    """Signing in keeps the fit, and the Space's own token, of alice, publishes nothing for carol."""
    monkeypatch.setenv("OAUTH_CLIENT_ID", "id")
    monkeypatch.setitem(tiny_hub.TOKENS, "mock-oauth-token-for-local-dev", "carol")  # what Gradio's login gives
    api.create_repo("alice/m")
    api.upload_folder(repo_id="alice/m", folder_path=tiny_open_clip)
    graph = harmful_graph()
    folder = make_store(tmp_path / "labels", [make_label(graph, model=resolve_model("alice/m"))], graph)
    port = free_port()
    served = load_app().serve(make_library(folder), server_port=port, prevent_thread_lock=True, quiet=True)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://localhost:{port}")  # cookies of a login are kept for localhost, not for its number
    find(page, "cat, dog", noise(tmp_path, 12))
    page.get_by_text("1 model tried on 12 images").wait_for()
    assert page.get_by_text("Agreement with all").count() == 0
    page.get_by_role("button", name="Take it home").click()
    page.get_by_label("Repo").fill("carol/mine")
    page.get_by_role("button", name="Publish the selection").click()
    page.get_by_role("alert").filter(has_text="You are not signed in").wait_for()
    with page.expect_popup() as popup:
        page.get_by_role("link", name="Sign in with Hugging Face").click()
    popup.value.locator("h1").wait_for()
    page.get_by_role("button", name="Publish the selection").click()
    page.get_by_role("link", name="carol/mine").wait_for()
    assert Selection.from_pretrained("carol/mine").trial.n_images == 12
    popup.value.close()
    page.close()
    served.close()


def test_models_and_concepts_have_addresses(visit):
    page = visit(address="?concept=dog")
    page.get_by_role("table", name="Best at dog").wait_for()
    check_page(page, "concept")
    page.get_by_role("link", name="org/dogs").click()
    page.get_by_role("table", name="About org/dogs").wait_for()
    check_page(page, "model")
    search = page.get_by_role("textbox", name="Model or concept")
    search.fill("cat")
    search.press("Enter")
    page.get_by_role("table", name="Best at cat").wait_for()
    page.goto(f"{page.url.partition('?')[0]}?explore")
    page.get_by_role("link", name="org/cats").first.wait_for()
    page.get_by_text("Labels that are left out").click()
    page.get_by_text("org/only-signs on graph signs: the model has no label on the reference graph").wait_for()
    check_page(page, "explore")
    page.goto(f"{page.url.partition('?')[0]}?model={quote(HARM)}")
    page.get_by_role("alert").filter(has_text="is not among the known models").wait_for()
    assert page.evaluate("window.harmed") is None


def test_errors_are_one_line_scripts_in_texts_do_not_run_and_a_few_images_are_classified(visit, tmp_path):
    page = visit()
    for classes, said in (
        ("", "No class names given"),
        ("cat", "One class leaves nothing"),
        (f"{HARM}, {HARM}", "repeats"),
    ):
        find(page, classes)
        page.get_by_role("alert").filter(has_text=said).wait_for()
    find(page, f"cat, car\n{HARM}\n**bold** [x](javascript:window.harmed=1)\n${{window.harmed=1}}\n<b>fat</b>")
    page.get_by_role("button", name="All compared models").click()
    page.get_by_role("table", name="Matches").get_by_text("bold").wait_for()
    assert page.evaluate("window.harmed") is None
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("a[href^=javascript]").count() == 0
    assert page.locator(".mll table b").count() == 0
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Maximum GFLOPs per image").first.fill("0.6")  # leaves the models that can be run
    page.get_by_label("Maximum GFLOPs per image").first.press("Tab")
    find(page, "cat, dog", noise(tmp_path, 3))
    page.get_by_text("These are only classified").wait_for()
    assert page.locator("#mll-images img").count() == 3
