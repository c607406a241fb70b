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
from answers import Labels, Library, Question
from figure import accuracy_by_cost
from fitting import Fitted  # Gradio reads the annotations of its callbacks

from mll_hf import SelectionConfig
from mll_hf.errors import InputError, MLLError
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder
from mll_hf.models.published import DEFAULT_LABELS
from mll_hf.selection.strategies import configured

if TYPE_CHECKING:
    from collections.abc import Callable

    from mll_hf import Selection

THEME = gr.themes.Default(  # fonts of the visitor's machine: nothing is downloaded
    primary_hue="teal",
    neutral_hue="stone",
    font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
    font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
)
_FEW_CLASSES = 12  # keep their order; of more, the most probable ones come first
_HOUR = 3600
_LIVE = ["mll-live"]  # announced by screen readers when it changes
_ANNOUNCE = "() => document.querySelectorAll('.mll-live').forEach(part => part.setAttribute('role', 'status'))"
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# fits wait for one another, not for questions without images
_SLOW: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "models", "concurrency_limit": 2}


def build_page(library: Library) -> gr.Blocks:
    """The page, and the API, which its docstring documents."""
    title = "Which vision model fits your images?"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as page:
        with gr.Column() as home:
            _build_home(library)
        with gr.Column(visible=False) as browse:
            _build_browse(library, page, home, browse)
        page.load(None, js=_ANNOUNCE)
        gr.api(make_api(library), api_name="select_models", concurrency_id="labels")
    return page


# --- the first page ---------------------------------------------------------------------------------------------------


def shown(labels: Labels, question: Question, selection: Selection, fitted: Fitted | None = None) -> tuple[Any, ...]:
    """The answer: card, figure of accuracy and cost, details, and code."""
    return (
        pages.card(selection, fitted),
        accuracy_by_cost(selection),
        pages.details(selection),
        question.code(labels.source, bool(fitted and fitted.weights)),
    )


def _build_home(library: Library) -> None:
    try:
        asked, found = next(iter(library.labels.examples.values()))
        first = shown(library.labels, asked, found)
    except MLLError as error:
        asked, first = None, (pages.alert(error), None, "", "")
    question, work, current = gr.State(asked), gr.State(None, time_to_live=2 * _HOUR), gr.State(0)
    domains = dict(answers.EXAMPLES.values())  # of the examples, by their classes
    gr.HTML(pages.wrap(pages.HEAD))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            with gr.Group():
                classes = gr.Textbox(
                    next(iter(domains)), label="Classes, separated by commas", placeholder="corroded pipe, weld",
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
        gr.HTML(pages.wrap(pages.ASK))
        with gr.Row(equal_height=False):
            picture = gr.Image(
                height=200, min_width=200, interactive=False, show_label=False, buttons=[], elem_id="mll-picture",
                alt_text="The image to name",
            )  # fmt: skip
            menu = gr.Radio([], label="Its class", scale=3, elem_id="mll-menu")
            shares = gr.Label(label="Class shares among your images", num_top_classes=5, show_heading=False, scale=2)
        gallery = gr.Gallery(
            label="Your images", columns=8, height=420, allow_preview=False, object_fit="cover", buttons=[],
            interactive=False, elem_id="mll-images",
        )  # fmt: skip
    cost = gr.Plot(first[1], show_label=False, elem_id="mll-cost")
    with gr.Accordion("Options", open=False):
        domain = gr.Textbox(label="How do the images look?", info="such as photo, sketch or satellite image")
        limits = {
            "k": gr.Number(0, label="Models to combine", info="0 for the best value", minimum=0, precision=0),
            "max_gflops": gr.Number(0, label="Maximum GFLOPs per image", info="0 for any", minimum=0),
            "max_parameters": gr.Textbox(label="Maximum parameters", info="empty for any", placeholder="200M"),
            "licenses": gr.Textbox(label="Licenses", info="empty for any", placeholder="apache-2.0, mit"),
        }
    with gr.Accordion("Take it home: code, saved folder, ONNX, your own repo", open=False):
        python = gr.Code(
            first[3], label="Python", language="python", interactive=False, lines=1, show_line_numbers=False,
            wrap_lines=True,
        )  # fmt: skip
        _build_take_home(question, work, library)
    with gr.Accordion("All compared models, and the concepts that match your classes", open=False):
        details = gr.HTML(first[2])
    gr.HTML(pages.wrap(pages.LINKS))
    parts = [card, cost, details, python]
    asking = [current, picture, menu, shares, gallery]

    def answered(labels: Labels, asked: Question, selection: Selection) -> dict[Any, Any]:
        found = dict(zip(parts, shown(labels, asked, selection), strict=True))
        return {question: asked, work: None, images: gr.Column(visible=False), status: "", **found}

    def show_example(name: str) -> dict[Any, Any]:
        fields = {classes: answers.EXAMPLES[name][0], domain: "", files: None}
        try:
            return {**fields, **answered(library.labels, *library.labels.examples[name])}
        except MLLError as error:
            return {**fields, status: pages.alert(error)}

    def show_names(text: str, look: str | None, *options: Any) -> dict[Any, Any]:  # noqa: ANN401 - checked
        try:
            asked = Question.of(text or "", look or domains.get(text), **dict(zip(limits, options, strict=True)))
            return answered(library.labels, asked, library.labels.select(asked))
        except MLLError as error:
            return {status: pages.alert(error), question: None, work: None, images: gr.Column(visible=False)}

    def show_images(
        asked: Question | None,
        files: list[dict[str, Any]] | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> dict[Any, Any]:
        if asked is None or not files:
            return {status: gr.skip()}
        paths = [each["path"] for each in files]
        try:
            found = fitting.fit(
                library.labels, asked, paths, library.max_parameters, lambda text: progress(None, desc=text)
            )
        except MLLError as error:
            return {status: pages.alert(error)}
        return fitted(found)

    def fitted(found: Fitted) -> dict[Any, Any]:
        trial = found.selection.trial
        estimated = dict(zip(found.question.classes, trial.shares.tolist(), strict=True)) if trial else None
        answer = shown(library.labels, found.question, found.selection, found)
        return {
            status: "", work: found, images: gr.Column(visible=True), **dict(zip(parts, answer, strict=True)),
            gallery: pages.captions(found), shares: gr.Label(estimated, visible=bool(trial)),
            **picked(found, found.next_asked),
        }  # fmt: skip

    def picked(found: Fitted, n: int) -> dict[Any, Any]:
        """Show an image and ask for its class."""
        names, order = found.question.classes, (-found.probabilities[n]).argsort(kind="stable").tolist()
        choices = [names[y] for y in order] if len(names) > _FEW_CLASSES else list(names)
        told = names[found.answers[n]] if n in found.answers else None
        label = f"Its class? Predicted: {names[order[0]]}"
        menu_of_it = gr.Radio(choices, value=told, label=label, visible=bool(found.weights))
        return {current: n, picture: found.thumbnails[n], menu: menu_of_it}

    def pick(found: Fitted | None, event: gr.SelectData) -> dict[Any, Any]:
        return picked(found, int(event.index)) if found else {current: gr.skip()}

    def tell(found: Fitted | None, n: int, name: str | None) -> dict[Any, Any]:
        try:
            if found is None or not name:
                raise InputError("your images were deleted, as they are after two hours; drop them again")
            return fitted(fitting.correct(found, n, name))
        except MLLError as error:
            return {status: pages.alert(error)}

    everything = [question, work, images, status, *parts]
    for chip in chips:
        act = functools.partial(show_example, chip.value)
        chip.click(act, None, [classes, domain, files, *everything], queue=False, **_QUIET)
    ask.click(
        show_names, [classes, domain, *limits.values()], everything, api_visibility="private", concurrency_id="labels",
        show_progress_on=[card], trigger_mode="once",
    ).success(  # not preprocessed, so that a file that is not an image reaches the fit, which reports it
        show_images, [question, files], [*everything, *asking], preprocess=False, show_progress_on=[status], **_SLOW
    )  # fmt: skip
    gallery.select(pick, work, [current, picture, menu], **_QUIET)
    menu.input(
        tell, [work, current, menu], [*everything, *asking], trigger_mode="once", show_progress="minimal",
        show_progress_on=[card], **_SLOW,
    )  # fmt: skip


def _build_take_home(question: gr.State, work: gr.State, library: Library) -> None:
    gr.HTML(pages.wrap(pages.HOW_TO_USE))
    with gr.Row():
        buttons = [gr.Button("Make the saved folder (.zip)"), gr.Button("Make ONNX (.zip)")]
    made = gr.File(label="Files to download", visible=False, interactive=False)
    said, kept = gr.HTML(elem_classes=_LIVE), gr.State(None, time_to_live=_HOUR)

    def chosen(found: Fitted | None, asked: Question | None) -> Selection:
        if found:
            return found.selection
        if asked is None:
            raise InputError("no answer yet; name classes and find a model first")
        return library.labels.select(asked)

    def make(action: Callable[[Selection, Path], str], found: Fitted | None, asked: Question | None) -> dict[Any, Any]:
        folder = tempfile.TemporaryDirectory(prefix="mll-zip-")  # deleted with the state
        try:
            path = action(chosen(found, asked), Path(folder.name))
            return {kept: folder, made: gr.File(path, visible=True), said: ""}
        except MLLError as error:
            return {made: gr.File(visible=False), said: pages.alert(error)}

    exported = functools.partial(fitting.onnx, most=library.max_parameters)
    for button, action in zip(buttons, (fitting.saved_folder, exported), strict=True):
        act = functools.partial(make, action)
        button.click(act, [work, question], [made, said, kept], show_progress_on=[said], trigger_mode="once", **_SLOW)
    if not os.environ.get("OAUTH_CLIENT_ID"):  # a login is available only on a Space
        return
    gr.LoginButton(visible=False)  # for its routes: a click on it would leave this page, and with it the fit
    gr.HTML(pages.wrap(pages.SIGN_IN))
    with gr.Row():
        repo = gr.Textbox(label="Repo", placeholder="<you>/my-selection", max_length=100)
        private = gr.Checkbox(label="Private")
    send = gr.Button("Publish the selection")

    def publish(
        found: Fitted | None, asked: Question | None, repo: str, private: bool, token: gr.OAuthToken | None
    ) -> str:
        try:
            if token is None:  # else the Space's own would be used
                raise InputError("you are not signed in; sign in with Hugging Face first")
            chosen(found, asked).push_to_hub(repo.strip(), private=private, token=token.token)
            return pages.published(repo.strip())
        except MLLError as error:
            return pages.alert(error)

    send.click(publish, [work, question, repo, private], said, trigger_mode="once", **_SLOW)


# --- all models, one model, one concept -------------------------------------------------------------------------------


def _build_browse(library: Library, page: gr.Blocks, home: gr.Column, browse: gr.Column) -> None:
    gr.HTML(pages.wrap(pages.BACK))
    find = gr.Textbox(label="Model or concept", info="its id, or a name such as umbrella", max_length=300)
    look = gr.Button("Show", variant="primary")
    models = gr.Dataframe(
        headers=list(pages.COLUMNS), datatype=["markdown", *["number"] * 4, "str"], interactive=False,
        column_widths=[360, 110, 130, 150, 110, 160], wrap=True, max_height=620, buttons=[], show_label=False,
        show_search="filter", label="Models", elem_id="mll-models",
    )  # fmt: skip
    found = gr.HTML(elem_classes=_LIVE)

    def show(text: str | None, kind: str = "") -> str:
        try:
            labels, text = library.labels, " ".join((text or "").split())
            if kind == "model" or text in {model.name for model in labels.models}:
                return pages.model_page(labels.model(text))
            return pages.concept_page(labels, text) if text else pages.about_models(labels)
        except MLLError as error:
            return pages.alert(error)

    def open_address(request: gr.Request) -> dict[Any, Any]:
        """Show the page of a model, of a concept, or of all models; other addresses are the first page."""
        asked = request.query_params
        kind = next((kind for kind in ("model", "concept", "explore") if kind in asked), None)
        if kind is None:
            return {found: gr.skip()}
        text = asked[kind][:300]
        opened = {home: gr.Column(visible=False), browse: gr.Column(visible=True)}
        opened |= {find: text, found: show(text, kind)}
        with contextlib.suppress(MLLError):  # which show() reports
            opened[models] = gr.Dataframe(pages.leaderboard(library.labels.models), visible=not text)
        return opened

    page.load(open_address, None, [home, browse, find, found, models], concurrency_id="labels", **_QUIET)
    gr.on([find.submit, look.click], show, find, found, concurrency_id="labels", api_visibility="private")


# --- API --------------------------------------------------------------------------------------------------------------


def make_api(library: Library) -> Callable[..., dict[str, Any]]:
    """The function for programs, over HTTP or as a tool of an MCP server; its docstring is the documentation."""

    def select_models(
        classes: list[str],
        k: int | None = None,
        domain: str = "",
        max_gflops: float | None = None,
        max_parameters: str = "",
        licenses: list[str] | None = None,
    ) -> dict[str, Any]:
        """Rank open vision-language models (CLIP-like zero-shot image classifiers) for a list of class names.

        No model is run: every model was tested once on images of visual concepts, and the classes are matched to these.

        Args:
            classes: Two or more class names, for example ["corroded pipe", "intact pipe", "weld"].
            k: Number of models to choose; the probabilities of several are combined. By default the best value.
            domain: How the images look, for example "photo", "sketch" or "satellite image"; empty if unknown.
            max_gflops: Maximum GFLOPs per image of a model.
            max_parameters: Maximum parameters of a model, for example "200M"; empty for any.
            licenses: Allowed licenses of chosen models, for example ["apache-2.0", "mit"]; none for any.

        Returns:
            "answer": the best value, the best at any cost, and whether the choice matters, as sentences. "models": the
            ten best and the chosen ones, best first, with the estimated accuracy and its 90 % interval. "code": a
            Python program that makes the same choice.
        """
        limits = {"k": k, "max_gflops": max_gflops, "max_parameters": max_parameters, "licenses": licenses}
        try:
            question, labels = Question.of(classes, domain, **limits), library.labels
            found = labels.select(question)
        except MLLError as error:
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from None
        models = [
            {
                "id": found.models[m].name,
                "revision": found.models[m].ref.revision,
                "chosen": m in found.chosen_models,
                "accuracy": found.estimate.text(m) if found.estimate else "not known",
                "license": found.models[m].license,
                "parameters": found.models[m].cost.parameters,
                "gflops": found.models[m].cost.gflops,
            }
            for m in pages.shown_models(found)
        ]
        return {"answer": list(found.answer_lines), "models": models, "code": question.code(labels.source)}

    return select_models


# --- start ------------------------------------------------------------------------------------------------------------


def serve(library: Library, **options: Any) -> gr.Blocks:  # noqa: ANN401 - passed on to Gradio
    """Start the page, the API and the MCP server, with options of :meth:`gradio.Blocks.launch`."""
    page = build_page(library)
    page.queue(max_size=100, default_concurrency_limit=8)  # some requests wait for the Hub
    page.launch(
        theme=THEME,
        css_paths=Path(__file__).parent / "style.css",
        max_file_size="10mb",
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
        limits = configured(SelectionConfig(), {"max_parameters": os.environ.get("MLL_MOST_PARAMETERS") or "1B"})
    except InputError as error:
        print(f"error: MLL_MOST_PARAMETERS: {error}", file=sys.stderr)
        return 1
    source, encoder = os.environ.get("MLL_LABELS") or DEFAULT_LABELS, CachedEncoder(DefaultEncoder())
    library = Library(source, encoder, limits.max_parameters or 0)
    with contextlib.suppress(MLLError):  # logged and shown to visitors; retried later
        _ = library.labels  # read before threads start
    serve(library)
    return 0


if __name__ == "__main__":
    sys.exit(main())
