"""A Space on one page: the best model for a visitor's classes, fitted to the visitor's images."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import answers
import fitting
import gradio as gr
import pages
from answers import Labels, Library, Question, Settings
from fitting import Fitted  # Gradio reads the annotations of its callbacks

from mll_hf.errors import InputError, MLLError
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder
from mll_hf.plots.selection import accuracy_by_cost

try:
    from spaces import GPU  # installed by the Hub
except ImportError:
    GPU = None

if TYPE_CHECKING:
    from collections.abc import Callable

    from mll_hf import Selection

TITLE = "Which vision model fits your images?"
_COLORS = {  # light, dark; with enough contrast
    "body_text_color_subdued": ("#565d57", "#a9b3ad"),
    "block_info_text_color": ("#565d57", "#a9b3ad"),
    "input_placeholder_color": ("#6b7069", "#8b958f"),
    "button_primary_background_fill": ("#1f6a66", "#27706b"),
    "button_primary_background_fill_hover": ("#175653", "#1f6a66"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "link_text_color": ("#175653", "#88c9b8"),
    "link_text_color_hover": ("#0b3335", "#b5e0d3"),
    "link_text_color_visited": ("#175653", "#88c9b8"),
}
THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="stone",
    font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
    font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
).set(  # fonts of the visitor's machine: nothing is downloaded
    **{name: light for name, (light, _) in _COLORS.items()},
    **{f"{name}_dark": dark for name, (_, dark) in _COLORS.items()},
)
DOMAINS = [
    "photo", "sketch", "drawing", "painting", "icon", "render", "handwriting", "satellite image", "texture",
    "medical image", "screenshot",
]  # fmt: skip
LICENSES = [
    ("Any", ""),
    ("Open for any use", ", ".join(answers.OPEN_LICENSES)),
    ("Apache 2.0 or MIT", "apache-2.0, mit"),
]
_MAX_UPLOAD = "10mb"
_MOST_BUTTONS = 12  # of more classes one is chosen from a list
_GPU_SECONDS = 120
_HOUR = 3600
_LIVE = ["mll-live"]  # announced by screen readers when it changes
_BROWSE = ("model", "concept", "explore")  # parameters of addresses beside the first page
_ANNOUNCE = """() => {
    const mark = () => document.querySelectorAll('.mll-live').forEach(
        part => part.parentElement.closest('.mll-live') || part.setAttribute('role', 'status'));
    new MutationObserver(mark).observe(document.body, {childList: true, subtree: true});  // tabs are built when opened
    mark();
}"""
_TO_ADDRESS = (
    "(name, ...rest) => { history.replaceState(null, '', '?%s=' + encodeURIComponent(name)); return [name, ...rest]; }"
)


def build_page(library: Library) -> gr.Blocks:
    """The page; its API functions are documented by their docstrings."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as page:
        with gr.Column() as home:
            _build_home(library)
        with gr.Column(visible=False) as browse:
            gr.HTML(pages.BACK)
            with gr.Tabs() as tabs:
                with gr.Tab("Explore", id="explore"):
                    _build_explore(library, page)
                with gr.Tab("Model", id="model"):
                    _build_model(library, page)
                with gr.Tab("Concept", id="concept"):
                    _build_concept(library, page)
        page.load(_open_address, None, [home, browse, tabs], **_QUIET)
        page.load(None, js=_ANNOUNCE)
        for function in make_api(library):
            gr.api(function, api_name=function.__name__, concurrency_id="labels")
    return page


def _query_parameter(request: gr.Request | None, what: str) -> str:
    """A parameter in the page's URL; empty if it is missing."""
    return str(request.query_params.get(what, ""))[:300] if request else ""


def _asked_page(request: gr.Request) -> str:
    return next((name for name in _BROWSE if name in request.query_params), "")


def _open_address(request: gr.Request) -> Any:  # noqa: ANN401 - components
    asked = _asked_page(request)
    return (gr.Column(visible=False), gr.Column(visible=True), gr.Tabs(selected=asked)) if asked else (gr.skip(),) * 3


_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def _or_alert(function: Callable[..., str]) -> Callable[..., str]:
    """Wrap a function to return an alert instead of its answer if it raises an error."""

    @functools.wraps(function)
    def act(*args: Any, **options: Any) -> str:  # noqa: ANN401 - passed on
        try:
            return function(*args, **options)
        except MLLError as error:
            return pages.alert(error)

    return act


# --- the first page ---------------------------------------------------------------------------------------------------


def shown(labels: Labels, question: Question, selection: Selection, fitted: Fitted | None = None) -> tuple[Any, ...]:
    """The answer: card, figure of accuracy and cost, ranking, matches, and code."""
    return (
        pages.card(selection, fitted),
        _figure(selection),
        pages.ranking_html(selection),
        pages.matches_html(selection, labels) if any(selection.matches) else "",
        answers.python_code(question, labels.settings.labels, bool(fitted and fitted.asked)),
    )


def _figure(selection: Selection) -> Any:  # noqa: ANN401 - plotly has no types
    """Accuracy against cost; the pick is marked by the library, the best model at any cost and a cheaper one here."""
    figure, estimate, answer = accuracy_by_cost(selection), selection.estimate, selection.answer
    if figure is None or estimate is None or answer is None:
        return figure
    for m, name in ((answer.best, "best at any cost"), (answer.cheapest, "as good and cheaper")):
        model = selection.models[m]
        if m not in selection.chosen_models:
            figure.add_scatter(
                x=[model.cost.gflops], y=[100 * float(estimate.accuracy[m])], name=name, hoverinfo="skip",
                marker={"color": "#d55e00", "symbol": "star", "size": 15, "line": {"color": "white", "width": 1}},
                mode="markers",
            )  # fmt: skip
    return figure


def _build_home(library: Library) -> None:
    try:
        labels = library.labels
        asked, found = next(iter(labels.examples.values()))
        first = shown(labels, asked, found)
    except MLLError as error:
        asked, first = None, (pages.alert(error), None, "", "", "")
    question, work = gr.State(asked), gr.State(None, time_to_live=2 * _HOUR)
    current = gr.State(0)
    text, look, purpose = next(iter(answers.EXAMPLES.values()))
    gr.HTML(pages.HEAD)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            with gr.Group():
                classes = gr.Textbox(
                    text, label="Classes, separated by commas", placeholder="corroded pipe, weld",
                    lines=2, max_lines=8, max_length=200_000,
                )  # fmt: skip
                files = gr.File(
                    label=f"Your images, up to {fitting.MAX_IMAGES} (optional)", file_count="multiple",
                    file_types=["image"], height=140,
                )  # fmt: skip
            ask = gr.Button("Find my model", variant="primary", size="lg")
            status = gr.HTML(elem_classes=_LIVE)
            with gr.Row(elem_classes=["mll-chips"]):
                chips = [gr.Button(name, size="sm", variant="secondary") for name in answers.EXAMPLES]
        with gr.Column(scale=6, min_width=300):
            card = gr.HTML(first[0], elem_classes=_LIVE)
    with gr.Column(visible=False) as images:
        gr.HTML(pages.ASK_HEAD)
        with gr.Row(equal_height=False):
            picture = gr.Image(
                height=200, min_width=200, interactive=False, show_label=False, buttons=[], elem_id="mll-picture",
                alt_text="The image to name",
            )  # fmt: skip
            with gr.Column(scale=3):
                buttons = gr.Radio([], label="Its class")
                menu = gr.Dropdown([], label="Its class", visible=False)
            shares = gr.Label(label="Class shares among your images", num_top_classes=5, show_heading=False, scale=2)
        gallery = gr.Gallery(
            label="Your images", columns=8, height=420, allow_preview=False, object_fit="cover", buttons=[],
            interactive=False, elem_id="mll-images",
        )  # fmt: skip
    cost = gr.Plot(first[1], show_label=False, elem_id="mll-cost", elem_classes=["mll-plot", "points"])
    with gr.Accordion("Options", open=False):
        domain = gr.Dropdown(
            DOMAINS, value=look, allow_custom_value=True, label="How do the images look?", info="any words"
        )
        task = gr.Textbox(purpose, label="What are they for?", placeholder="pipe inspection", max_length=200)
        k = gr.Slider(1, answers.MAX_MODELS, value=1, step=1, label="Models to combine")
        gflops = gr.Number(0, label="Maximum GFLOPs per image", info="0 for any", minimum=0)
        parameters = gr.Number(0, label="Maximum parameters, in millions", info="0 for any", minimum=0)
        license = gr.Dropdown(
            LICENSES, value="", allow_custom_value=True, label="License", info="or your own: mit, openrail"
        )
    with gr.Accordion("Take it home: code, saved folder, ONNX, your own repo", open=False):
        python = gr.Code(
            first[4], label="Python", language="python", interactive=False, lines=1, show_line_numbers=False,
            wrap_lines=True,
        )  # fmt: skip
        _build_take_home(question, work, library)
    with gr.Accordion("All compared models", open=False):
        ranking = gr.HTML(first[2])
    with gr.Accordion("Which concepts match your classes?", open=False):
        matches = gr.HTML(first[3])
    gr.HTML(pages.LINKS)

    parts = [card, cost, ranking, matches, python]
    asking = [current, picture, buttons, menu, shares, gallery]

    def answered(labels: Labels, asked: Question, selection: Selection) -> dict[Any, Any]:
        found = shown(labels, asked, selection)
        return {
            question: asked,
            work: None,
            images: gr.Column(visible=False),
            status: "",
            **dict(zip(parts, found, strict=True)),
        }

    def show_names(
        text: str,
        domain: str | None,
        task: str,
        k: float,
        gflops: float | None,
        parameters: float | None,
        license: str | None,
    ) -> dict[Any, Any]:
        try:
            names, licenses = answers.names_in_text(text), answers.licenses_in_text(license)
            asked = answers.make_question(names, domain, task, k, gflops, parameters, licenses)
            labels = library.labels
            return answered(labels, asked, labels.select(asked))
        except MLLError as error:
            return {status: pages.alert(error), question: None, work: None, images: gr.Column(visible=False)}

    def show_images(
        asked: Question | None,
        files: list[dict[str, Any]] | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> dict[Any, Any]:
        if asked is None or not files:
            return {status: gr.skip()}
        found = _fit(library.labels, asked, [each["path"] for each in files], lambda text: progress(None, desc=text))
        if isinstance(found, MLLError):
            return {status: pages.alert(found)}
        return {status: "", **fitted_shown(found, found.next_asked)}

    def fitted_shown(found: Fitted, n: int | None) -> dict[Any, Any]:
        answer = shown(library.labels, found.question, found.selection, found)
        trial = found.selection.trial
        estimated = dict(zip(found.question.classes, trial.shares.tolist(), strict=True)) if trial else None
        return {
            work: found, images: gr.Column(visible=True), **dict(zip(parts, answer, strict=True)),
            gallery: pages.captions(found), shares: gr.Label(estimated, visible=bool(trial)), **picked(found, n),
        }  # fmt: skip

    def picked(found: Fitted, n: int | None) -> dict[Any, Any]:
        """Show an image and ask for its class."""
        n, names = n or 0, list(found.question.classes)
        few, can_ask = len(names) <= _MOST_BUTTONS, bool(found.asked)
        told = names[found.answers[n]] if n in found.answers else None
        label = f"Its class? Predicted: {names[int(found.probabilities[n].argmax())]}"
        return {
            current: n,
            picture: found.thumbnails[n],
            buttons: gr.Radio(names if few else [], value=told, label=label, visible=few and can_ask),
            menu: gr.Dropdown(names, value=told, label=label, visible=not few and can_ask),
        }

    def pick(found: Fitted | None, event: gr.SelectData) -> dict[Any, Any]:
        return picked(found, int(event.index)) if found else {current: gr.skip()}

    def tell(found: Fitted | None, n: int, name: str | None) -> dict[Any, Any]:
        try:
            if found is None or not name:
                raise InputError("your images were deleted, as they are after two hours; drop them again")
            found = fitting.correct(found, n, name)
        except MLLError as error:
            return {status: pages.alert(error)}
        return {status: "", **fitted_shown(found, found.next_asked)}

    def show_example(name: str) -> dict[Any, Any]:
        text, look, purpose = answers.EXAMPLES[name]
        fields = {classes: text, domain: look, task: purpose, files: None}
        try:
            return {**fields, **answered(library.labels, *library.labels.examples[name])}
        except MLLError as error:
            return {**fields, status: pages.alert(error)}

    everything = [question, work, images, status, *parts]
    for chip in chips:
        chip.click(
            functools.partial(show_example, chip.value),
            None,
            [classes, domain, task, files, *everything],
            queue=False,
            **_QUIET,
        )
    # not preprocessed, so that a file that is not an image reaches the fit, which reports it
    models = {"api_visibility": "private", "concurrency_id": "models", "concurrency_limit": 2}
    ask.click(
        show_names, [classes, domain, task, k, gflops, parameters, license], everything, api_visibility="private",
        concurrency_id="labels", show_progress_on=[card], trigger_mode="once",
    ).success(
        show_images, [question, files], [*everything, *asking], preprocess=False, show_progress_on=[status], **models,
    )  # fmt: skip
    gallery.select(pick, work, asking[:4], **_QUIET)
    for control in (buttons, menu):
        control.input(
            tell, [work, current, control], [*everything, *asking], trigger_mode="once", show_progress="minimal",
            show_progress_on=[card], **models,
        )  # fmt: skip


def _attempt(*arguments: Any) -> Fitted | MLLError:  # noqa: ANN401 - those of fitting.fit
    """:func:`fitting.fit`, which returns its error: ZeroGPU runs it in a process that would only return its class."""
    try:
        return fitting.fit(*arguments)
    except MLLError as error:
        return error


_fit = GPU(duration=_GPU_SECONDS)(_attempt) if GPU else _attempt


def _build_take_home(question: gr.State, work: gr.State, library: Library) -> None:
    gr.HTML(pages.HOW_TO_USE)
    with gr.Row():
        zipped = gr.Button("Make the saved folder (.zip)")
        exported = gr.Button("Make ONNX (.zip)")
    made = gr.File(label="Files to download", visible=False, interactive=False)
    said = gr.HTML(elem_classes=_LIVE)

    def chosen(found: Fitted | None, asked: Question | None) -> Selection:
        if found:
            return found.selection
        if asked is None:
            raise InputError("no answer yet; name classes and find a model first")
        return library.labels.select(asked)

    def make(action: Callable[[Selection, Path], str], found: Fitted | None, asked: Question | None) -> dict[Any, Any]:
        try:
            folder = Path(tempfile.mkdtemp(prefix="mll-zip-"))
            return {made: gr.File(action(chosen(found, asked), folder), visible=True), said: ""}
        except MLLError as error:
            return {made: gr.File(visible=False), said: pages.alert(error)}

    for button, action in ((zipped, fitting.saved_folder), (exported, fitting.onnx)):
        button.click(
            functools.partial(make, action), [work, question], [made, said], api_visibility="private",
            concurrency_id="models", show_progress_on=[said], trigger_mode="once",
        )  # fmt: skip
    if not os.environ.get("OAUTH_CLIENT_ID"):  # a login is available only on a Space
        return
    gr.HTML(pages.PUSH_HEAD)
    gr.LoginButton()
    with gr.Row():
        repo = gr.Textbox(label="Repo", placeholder="<you>/my-selection", max_length=100)
        private = gr.Checkbox(label="Private")
    send = gr.Button("Publish the selection")
    published = gr.HTML(elem_classes=_LIVE)

    @_or_alert
    def publish(
        found: Fitted | None, asked: Question | None, repo: str, private: bool, token: gr.OAuthToken | None
    ) -> str:
        return pages.pushed_html(fitting.push(chosen(found, asked), repo, private, token.token if token else None))

    send.click(publish, [work, question, repo, private], published, api_visibility="private", trigger_mode="once")


# --- all models, one model, one concept -------------------------------------------------------------------------------


def _build_explore(library: Library, page: gr.Blocks) -> None:
    gr.HTML(pages.EXPLORE_HEAD)
    table = gr.Dataframe(
        headers=list(pages.COLUMNS), datatype=["markdown", *["number"] * 4, *["str"] * 2], interactive=False,
        column_widths=[230, 95, 110, 125, 95, 120, 230], wrap=True, max_height=620, buttons=[], show_label=False,
        show_search="filter", label="Models", elem_id="mll-models",
    )  # fmt: skip
    about = gr.HTML(elem_classes=_LIVE)
    gr.HTML(pages.HOW_TO_LABEL)

    def fill(request: gr.Request) -> dict[Any, Any]:
        if not _asked_page(request):
            return {about: ""}
        try:
            labels = library.labels
        except MLLError as error:
            return {about: pages.alert(error)}
        return {table: pages.leaderboard(labels.models), about: pages.boards_html(labels)}

    page.load(fill, None, [table, about], concurrency_id="labels", **_QUIET)


def _build_model(library: Library, page: gr.Blocks) -> None:
    gr.HTML(pages.MODEL_HEAD)
    model = gr.Dropdown([], label="Model", info="type to search", interactive=True)
    shown = gr.HTML(elem_classes=_LIVE)

    @_or_alert
    def show(name: str | None) -> str:
        labels = library.labels
        return pages.model_page(labels.find(name), labels)

    def fill(request: gr.Request) -> dict[Any, Any]:
        if not _asked_page(request):
            return {shown: ""}
        try:
            names = [each.name for each in library.labels.models]
        except MLLError as error:
            return {shown: pages.alert(error)}
        asked = _query_parameter(request, "model") or names[0]
        return {model: gr.Dropdown(names, value=asked if asked in names else None), shown: show(asked)}

    page.load(fill, None, [model, shown], concurrency_id="labels", **_QUIET)
    model.input(show, model, shown, js=_TO_ADDRESS % "model", concurrency_id="labels", api_visibility="private")


def _build_concept(library: Library, page: gr.Blocks) -> None:
    gr.HTML(pages.CONCEPT_HEAD)
    concept = gr.Textbox(label="Concept", info="its name, or its id", placeholder="umbrella", max_length=200)
    look = gr.Button("Show the best models")
    best = gr.HTML(pages.CONCEPT_EMPTY, elem_classes=_LIVE)

    @_or_alert
    def show(text: str | None) -> str:
        labels = library.labels
        return pages.concept_html(labels, *labels.senses(text), text or "")

    def fill(request: gr.Request) -> dict[Any, Any]:
        asked = _query_parameter(request, "concept")
        return {concept: asked, best: show(asked)} if asked else {concept: gr.skip()}

    quiet = {"api_visibility": "private", "concurrency_id": "labels"}
    page.load(fill, None, [concept, best], show_progress="hidden", **quiet)
    for event in (concept.submit, look.click):
        event(show, concept, best, js=_TO_ADDRESS % "concept", **quiet)


# --- API --------------------------------------------------------------------------------------------------------------


def make_api(library: Library) -> tuple[Callable[..., Any], ...]:
    """API functions, over HTTP or as tools of an MCP server; their docstrings are the documentation."""

    def select_models(
        classes: list[str],
        k: int = 1,
        domain: str = "",
        task: str = "",
        max_gflops: float = 0,
        max_million_parameters: float = 0,
        licenses: list[str] | None = None,
    ) -> dict[str, Any]:
        """Rank open vision-language models (CLIP-like zero-shot image classifiers) for a list of class names.

        No model is run: every model was tested once on images of visual concepts, and the classes are matched to these.

        Args:
            classes: Two or more class names, for example ["corroded pipe", "intact pipe", "weld"].
            k: Number of models to choose; the probabilities of several are combined.
            domain: How the images look, for example "photo", "sketch" or "satellite image"; empty if unknown.
            task: What the images are for, for example "pipe inspection"; empty if unknown.
            max_gflops: Maximum GFLOPs per image of a model; 0 for any.
            max_million_parameters: Maximum parameters of a model, in millions; 0 for any.
            licenses: Allowed licenses of chosen models, for example ["apache-2.0", "mit"]; none for any.

        Returns:
            "answer": the best value, the best at any cost, and whether the choice matters, as sentences. "models": the
            ten best and the chosen ones, best first; figures between 0 and 1, null if not known. "classes": the recall
            of the best chosen model on their test images, and how well the tests cover them. "code": a Python program
            that makes the same choice.
        """
        try:
            question = answers.make_question(
                classes, domain, task, k, max_gflops, max_million_parameters, licenses or ()
            )
            labels = library.labels
            code = answers.python_code(question, labels.settings.labels)
            return _selection_record(labels.select(question), code)
        except MLLError as error:
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from None

    return (select_models,)


def _selection_record(selection: Selection, code: str) -> dict[str, Any]:
    measured = [m for m in selection.chosen_models if pages.has_recall(selection, m)]
    best = selection.scores[measured].max(axis=0).tolist() if measured else [None] * len(selection.classes)
    return {
        "answer": list(selection.answer_lines),
        "models": [
            {
                "id": selection.models[m].ref.repo_id,
                "revision": selection.models[m].ref.revision,
                "chosen": m in selection.chosen_models,
                "accuracy": _accuracy_record(selection, m),
                "recall": round(float(selection.overall[m]), 4) if pages.has_recall(selection, m) else None,
                "based_on": str(selection.models[m].figures),
                "license": selection.models[m].license,
                "parameters": selection.models[m].cost.parameters,
                "gflops": selection.models[m].cost.gflops,
            }
            for m in pages.shown_models(selection)
        ],
        "classes": [
            {"name": name, "recall": None if recall is None else round(recall, 4), "coverage": round(coverage, 4)}
            for name, recall, coverage in zip(selection.classes, best, selection.coverage.tolist(), strict=True)
        ],
        "code": code,
    }


def _accuracy_record(selection: Selection, m: int) -> dict[str, Any] | None:
    estimate = selection.estimate
    if estimate is None or not estimate.known[m]:
        return None
    low, high = (round(float(ends[m]), 4) for ends in estimate.interval)
    return {"estimate": round(float(estimate.accuracy[m]), 4), "low": low, "high": high}


# --- start ------------------------------------------------------------------------------------------------------------


def serve(library: Library, **options: Any) -> gr.Blocks:  # noqa: ANN401 - passed on to Gradio
    """Start the page, the API and the MCP server.

    Args:
        library: The labels.
        options: Options of :meth:`gradio.Blocks.launch`, such as ``server_port``.
    """
    page = build_page(library)
    page.queue(max_size=100, default_concurrency_limit=8)  # some requests wait for the Hub
    page.launch(
        theme=THEME,
        css_paths=Path(__file__).parent / "style.css",
        max_file_size=_MAX_UPLOAD,
        max_threads=10,  # each takes memory
        mcp_server=importlib.util.find_spec("mcp") is not None,
        ssr_mode=False,
        show_error=True,
        **options,
    )
    return page


def main() -> int:
    """Serve until the Space is stopped; returns the exit status."""
    try:
        settings = Settings.from_environment(os.environ)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    library = Library(settings, CachedEncoder(DefaultEncoder()))
    with contextlib.suppress(MLLError):  # logged and shown to visitors; retried later
        _ = library.labels  # read before threads start
    serve(library)
    return 0


if __name__ == "__main__":
    sys.exit(main())
