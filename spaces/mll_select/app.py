"""A Space that finds vision-language models for a visitor's classes, tries them on images, and shows the code."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import answers
import gradio as gr
import pages
import trials
from answers import Labels, Library, Question, Settings

from mll_hf.errors import InputError, MLLError
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder
from mll_hf.plots.selection import accuracy_by_cost
from mll_hf.selection.task import MIN_IMAGES

try:
    from spaces import GPU  # installed by the Hub
except ImportError:
    _embed = trials.embed
else:
    _embed = GPU(duration=trials.gpu_seconds)(trials.embed)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from mll_hf import Selection
    from mll_hf.models import VisionLanguageModel

TITLE = "Which vision model knows your classes?"
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
PICTURES = Path(__file__).parent / "pictures"
DOMAINS = [
    "photo", "sketch", "drawing", "painting", "icon", "render", "handwriting", "satellite image", "texture",
    "medical image", "screenshot",
]  # fmt: skip
EXAMPLES = {
    "Household items": ("bicycle, umbrella, camera, clock, key, bed, bell, book", "icon", ""),
    "Weather and sky": ("sun, cloud, moon, star, rain, snowflake, lightning", "icon", ""),
    "Handwritten digits": ("0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "handwriting", "digit"),
    "Pipe inspection": ("corroded pipe, intact pipe, weld", "photo", "pipe inspection"),
}
LICENSES = [
    ("Any", ""),
    ("Open for any use", ", ".join(answers.OPEN_LICENSES)),
    ("Apache 2.0 or MIT", "apache-2.0, mit"),
]
_MAX_UPLOAD = "10mb"
_PLOT = ["mll-plot"]
_LIVE = ["mll-live"]  # announced by screen readers when it changes
_ANNOUNCE = """() => {
    const mark = () => document.querySelectorAll('.mll-live').forEach(
        part => part.parentElement.closest('.mll-live') || part.setAttribute('role', 'status'));
    new MutationObserver(mark).observe(document.body, {childList: true, subtree: true});  // tabs are built when opened
    mark();
}"""
_TO_ADDRESS = (
    "(name, ...rest) => { history.replaceState(null, '', '?%s=' + encodeURIComponent(name)); return [name, ...rest]; }"
)


def embed_on_gpu(model: VisionLanguageModel, pixels: torch.Tensor, texts: list[str]) -> tuple[Any, Any] | str:
    """:func:`trials.embed` on ZeroGPU; returns the reason if no GPU is available, or the visitor's quota is spent."""
    try:
        return _embed(model, pixels, texts)
    except gr.Error as error:
        return str(error.message)


EMBED = embed_on_gpu if hasattr(_embed, "zerogpu") else None  # None: models run on the device that they are loaded on


def build_page(library: Library) -> gr.Blocks:
    """The page; its API functions are documented by their docstrings."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(pages.HEAD)
        question = gr.State(None)
        with gr.Tabs(overflow_behavior="wrap") as tabs:  # a menu would hide them on phones
            with gr.Tab("Find", id="find"):
                _build_find(library, question)
            with gr.Tab("Try", id="try"):
                _build_try(library, question)
            with gr.Tab("Explore", id="explore"):
                _build_explore(library, page)
            with gr.Tab("Model", id="model"):
                _build_model(library, page)
            with gr.Tab("Concept", id="concept"):
                _build_concept(library, page)
        page.load(_tab_of_address, None, tabs, **_QUIET)
        page.load(None, js=_ANNOUNCE)
        for function in make_api(library):
            gr.api(function, api_name=function.__name__, concurrency_id="labels")
    return page


def _query_parameter(request: gr.Request | None, what: str) -> str:
    """A parameter in the page's URL; empty if it is missing."""
    return str(request.query_params.get(what, ""))[:300] if request else ""


def _tab_of_address(request: gr.Request) -> Any:  # noqa: ANN401 - a component
    named = [tab for tab in ("model", "concept", "try", "explore") if tab in request.query_params]
    return gr.Tabs(selected=named[0]) if named else gr.skip()


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


# --- find -------------------------------------------------------------------------------------------------------------


def find(labels: Labels, question: Question) -> tuple[Any, ...]:
    """Everything that is shown in answer to a question.

    Returns:
        The answer in words, the ranking, the figure of costs, the matches, and Python code.

    Raises:
        MLLError: No model is within the limits, or licenses cannot be read from the Hub.
    """
    selection = labels.select(question)
    return (
        pages.answer_html(selection),
        pages.ranking_html(selection, question.config.licenses),
        accuracy_by_cost(selection),
        pages.matches_html(selection, labels) if any(selection.matches) else "",
        answers.python_code(question, labels.settings.labels),
    )


def _build_find(library: Library, question: gr.State) -> None:
    gr.HTML(pages.FIND_HEAD)
    classes = gr.Textbox(
        label="Classes",
        info="separated by commas or line breaks",
        placeholder="corroded pipe, intact pipe, weld",
        lines=4,
        max_lines=12,
        max_length=200_000,
    )
    with gr.Row(elem_classes=["mll-chips"]):
        chips = [gr.Button(name, size="sm", variant="secondary") for name in EXAMPLES]
    with gr.Row():
        domain = gr.Dropdown(
            DOMAINS,
            value=None,
            allow_custom_value=True,
            label="How do the images look?",
            info="optional; any words",
        )
        task = gr.Textbox(label="What are they for?", info="optional", placeholder="pipe inspection", max_length=200)
    with gr.Accordion("Number of models and limits", open=False), gr.Row():
        k = gr.Slider(
            1, answers.MAX_MODELS, value=1, step=1, label="Models to combine", info="their probabilities are combined"
        )
        gflops = gr.Number(0, label="Maximum GFLOPs per image", info="0 for any", minimum=0)
        parameters = gr.Number(0, label="Maximum parameters, in millions", info="0 for any", minimum=0)
        license = gr.Dropdown(
            LICENSES,
            value="",
            allow_custom_value=True,
            label="License",
            info="as on labels and model pages; or enter your own: mit, openrail",
        )
    ask = gr.Button("Find models", variant="primary", size="lg")
    answer = gr.HTML(pages.FIND_EMPTY, elem_classes=_LIVE)
    with gr.Column(visible=False) as details:
        ranking = gr.HTML()
        gr.HTML(pages.COST_HEAD)
        cost = gr.Plot(show_label=False, elem_id="mll-cost", elem_classes=[*_PLOT, "points"])
        matches = gr.HTML()
        gr.HTML(pages.CODE_HEAD)
        python = gr.Code(
            label="Python", language="python", interactive=False, lines=1, show_line_numbers=False, wrap_lines=True
        )

    parts = (answer, ranking, cost, matches, python)

    def show(
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
            found = find(library.labels, asked)
        except MLLError as error:
            return {answer: pages.alert(error), details: gr.Column(visible=False), question: None}
        return {question: asked, details: gr.Column(visible=True), **dict(zip(parts, found, strict=True))}

    inputs = [classes, domain, task, k, gflops, parameters, license]
    for chip, values in zip(chips, EXAMPLES.values(), strict=True):
        chip.click(lambda v=values: v, None, [classes, domain, task], queue=False, **_QUIET)
    ask.click(
        show, inputs, [question, details, *parts], api_visibility="private", concurrency_id="labels",
        show_progress_on=[answer], trigger_mode="once",
    )  # fmt: skip


# --- try --------------------------------------------------------------------------------------------------------------


def _build_try(library: Library, question: gr.State) -> None:
    gr.HTML(pages.TRY_HEAD)
    selection = gr.State(None)
    files = gr.File(label=f"Images: up to {trials.MAX_IMAGES}", file_count="multiple", file_types=["image"], height=170)
    pictures = sorted(map(str, PICTURES.glob("*.png")))
    examples = gr.Button("Use our example images", size="sm")
    run = gr.Button("Try the models", variant="primary", size="lg")
    message = gr.HTML(pages.TRY_EMPTY, elem_classes=_LIVE)
    result = gr.HTML()
    home = gr.HTML()
    with gr.Column(visible=False) as publish:
        _build_push(selection)

    def act(
        asked: Question | None,
        files: list[dict[str, Any]] | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> dict[Any, Any]:
        def tell(done: tuple[int, int | None], text: str) -> None:
            progress(done, desc=text, unit="models")

        nothing = {selection: None, result: "", home: "", publish: gr.Column(visible=False)}
        try:
            if asked is None:
                raise InputError("no models yet; find some under “Find”")
            images = trials.sampled_images([each["path"] for each in files or ()])
            if len(images) < MIN_IMAGES:
                trial = trials.classify(library.labels, asked, images, EMBED, tell)
                found, shown = trial.selection, pages.predictions_html(trial, [Path(path).name for path in images])
                answer = pages.wrap(f"<p>{pages.classified(trial)}</p>")
            else:
                before, found = trials.choose_by_images(library.labels, asked, images, EMBED, tell)
                answer, shown = pages.answer_html(found), pages.trial_ranking_html(before, found, len(images))
        except MLLError as error:
            return {message: pages.alert(error), **nothing}
        return {
            selection: found, message: answer, result: shown, home: pages.download_html(found),
            publish: gr.Column(visible=True),
        }  # fmt: skip

    # not preprocessed, so that a file that is not an image reaches the trial, which reports it
    outputs = [selection, message, result, home, publish]
    run.click(
        act, [question, files], outputs, preprocess=False, api_visibility="private", concurrency_id="models",
        concurrency_limit=1, trigger_mode="once", show_progress_on=[message],
    )  # fmt: skip
    examples.click(lambda: pictures, None, files, queue=False, **_QUIET)


def _build_push(selection: gr.State) -> None:
    """Publish a selection with the visitor's login, which is available only on a Space."""
    if not os.environ.get("OAUTH_CLIENT_ID"):
        gr.HTML(pages.HOW_TO_PUSH)
        return
    gr.HTML(pages.PUSH_HEAD)
    gr.LoginButton()
    with gr.Row():
        repo = gr.Textbox(label="Repo", placeholder="<you>/my-selection", max_length=100)
        private = gr.Checkbox(label="Private")
    send = gr.Button("Publish the selection")
    said = gr.HTML(elem_classes=_LIVE)

    @_or_alert
    def publish(found: Selection | None, repo: str, private: bool, token: gr.OAuthToken | None) -> str:
        return pages.pushed_html(trials.push(found, repo, private, token.token if token else None))

    send.click(publish, [selection, repo, private], said, api_visibility="private", trigger_mode="once")


# --- explore ----------------------------------------------------------------------------------------------------------


def _build_explore(library: Library, page: gr.Blocks) -> None:
    gr.HTML(pages.EXPLORE_HEAD)
    board = gr.Dropdown([], label="Graph", info="the concepts of the test", visible=False)
    message = gr.HTML(elem_classes=_LIVE)
    table = gr.Dataframe(
        headers=list(pages.COLUMNS), datatype=["markdown", *["number"] * 4, *["str"] * 2], interactive=False,
        column_widths=[230, 95, 110, 125, 95, 120, 230], wrap=True, max_height=620, buttons=[], show_label=False,
        show_search="filter", label="Models", elem_id="mll-models",
    )  # fmt: skip
    about = gr.HTML()
    gr.HTML(pages.HOW_TO_LABEL)

    def show(name: str | None) -> dict[Any, Any]:
        try:
            labels = library.labels
            return {table: pages.leaderboard(labels.models, labels.board(name)), message: ""}
        except MLLError as error:
            return {message: pages.alert(error)}

    def fill() -> dict[Any, Any]:
        try:
            labels = library.labels
        except MLLError as error:
            return {message: pages.alert(error)}
        names = [each.name for each in labels.boards]
        boards = gr.Dropdown(names, value=names[0], visible=len(names) > 1)
        return {board: boards, about: pages.boards_html(labels), **show(names[0])}

    quiet = {**_QUIET, "concurrency_id": "labels"}
    page.load(fill, None, [board, message, table, about], **quiet)
    board.input(show, board, [message, table], **quiet)


# --- model ------------------------------------------------------------------------------------------------------------


def _build_model(library: Library, page: gr.Blocks) -> None:
    gr.HTML(pages.MODEL_HEAD)
    with gr.Row():
        model = gr.Dropdown([], label="Model", info="type to search", interactive=True)
        board = gr.Dropdown([], label="Graph", info="the concepts of the test", interactive=True, visible=False)
    shown = gr.HTML(elem_classes=_LIVE)

    @_or_alert
    def show(name: str | None, board_name: str | None) -> str:
        labels = library.labels
        model = labels.find(name)
        page = pages.model_page(model, labels)
        return page + pages.branches_html(*labels.read_label(model, board_name)) if any(model.labels) else page

    def fill(request: gr.Request) -> dict[Any, Any]:
        try:
            labels = library.labels
        except MLLError as error:
            return {shown: pages.alert(error)}
        names, boards = [each.name for each in labels.models], [each.name for each in labels.boards]
        asked = _query_parameter(request, "model")
        return {
            model: gr.Dropdown(names, value=asked if asked in names else None if asked else names[0]),
            board: gr.Dropdown(
                [("the first", ""), *((name, name) for name in boards)], value="", visible=len(boards) > 1
            ),
            shown: show(asked or names[0], ""),
        }

    quiet = {"api_visibility": "private", "concurrency_id": "labels"}
    inputs = [model, board]
    page.load(fill, None, [*inputs, shown], show_progress="hidden", **quiet)
    for control in inputs:
        control.input(show, inputs, shown, js=_TO_ADDRESS % "model", **quiet)


# --- concept ----------------------------------------------------------------------------------------------------------


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
            licenses: Allowed licenses of chosen models, for example ["apache-2.0", "mit"]; none for any. Models that
                are listed but not chosen may have others.

        Returns:
            "answer": the best model, the cheapest that is as good, and whether the choice matters, as sentences.
            "models": the ten best and the chosen ones, best first, each with its id, revision, whether it is chosen,
            its estimated accuracy on the user's images (0 to 1) with its 90 % interval, or null if it is not known, its
            recall on test images of the classes (null if only its accuracy on ImageNet is known), what its figures are
            based on, its license, parameters and GFLOPs per image. "classes": for each class the recall of the best
            chosen model (null as above), and its coverage: 1 if the tests have the class, 0 if nothing like it, where
            the recall is only the models' general level.
            "code": a Python program that makes the same choice.
        """
        with _errors_for_programs():
            question = answers.make_question(
                classes, domain, task, k, max_gflops, max_million_parameters, licenses or ()
            )
            labels = library.labels
            code = answers.python_code(question, labels.settings.labels)
            return _selection_record(labels.select(question), code)

    def explain_class(class_name: str, other_classes: list[str] | None = None, k: int = 3) -> dict[str, Any]:
        """Show which visual concepts a class name is matched to, and how well the best models recognize them.

        Args:
            class_name: The class, for example "corroded pipe".
            other_classes: The other classes of the task; a model has to distinguish all of them.
            k: Number of best models to show.

        Returns:
            "coverage": 1 if the tests have the class, 0 if they have nothing similar. "concepts": the concepts with
            their weight and definition.
            "models": the ids of these models.
        """
        with _errors_for_programs():
            question = answers.make_question([class_name, *(other_classes or ["something else"])], k=k)
            labels = library.labels
            return _class_record(labels.select(question), labels, question.classes[0])

    return select_models, explain_class


@contextlib.contextmanager
def _errors_for_programs() -> Iterator[None]:
    """Report errors in one line."""
    try:
        yield
    except MLLError as error:
        raise gr.Error(" ".join(str(error).split()), print_exception=False) from None


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


def _class_record(selection: Selection, labels: Labels, name: str) -> dict[str, Any]:
    return {
        "class": name,
        "coverage": round(float(selection.coverage[selection.classes.index(name)]), 4),
        "models": [selection.models[m].ref.repo_id for m in selection.chosen_models],
        "concepts": [
            {
                "id": match.id,
                "name": match.name,
                "definition": labels.concept(match.id).definition,
                "weight": round(match.weight, 4),
            }
            for match in selection.explain(name)
        ],
    }


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
