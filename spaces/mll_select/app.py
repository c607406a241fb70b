"""A Space that says which vision-language models know a visitor's classes, tries them, and gives the code away."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import answers
import gradio as gr
import numpy as np
import pages
from answers import Catalogue, Question, Settings
from look import make_theme

from mll_hf.cli.report import label_difference
from mll_hf.errors import InputError, MLLError
from mll_hf.matching.text_encoder import CachedEncoder, default_encoder
from mll_hf.plots.labels import branch_comparison, strengths
from mll_hf.plots.selection import precision_by_cost, precision_heatmap

try:
    from spaces import GPU  # there on ZeroGPU only
except ImportError:
    run_one_model = answers.run_one_model
else:
    run_one_model = GPU(duration=60)(answers.run_one_model)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mll_hf import Selection

TITLE = "Which vision model knows your classes?"
PICTURES = Path(__file__).parent / "pictures"
DOMAINS = [
    "photo", "sketch", "drawing", "painting", "icon", "render", "handwriting", "satellite image", "texture",
    "medical image", "screenshot",
]  # fmt: skip
EXAMPLES = {
    "Household things": ("bicycle, umbrella, camera, clock, key, bed, bell, book", "icon", ""),
    "Weather and sky": ("sun, cloud, moon, star, rain, snowflake, lightning", "icon", ""),
    "Handwritten digits": ("0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "handwriting", "digit"),
    "Pipe inspection": ("corroded pipe, intact pipe, weld", "photo", "pipe inspection"),
}
LICENSES = [
    ("Any", ""),
    ("Open for any use", ", ".join(answers.OPEN_LICENSES)),
    ("Apache 2.0 or MIT", "apache-2.0, mit"),
]
_FILE_TYPES = [".txt", ".csv", ".json"]
_MOST_UPLOAD = "10mb"
_PLOT = ["mll-plot"]


def build_page(catalogue: Catalogue) -> gr.Blocks:
    """The page; its functions for programs are documented by their docstrings."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(pages.HEAD)
        question = gr.State(None)
        chosen = gr.HTML(pages.TRY_FIRST, render=False)
        with gr.Tabs():
            with gr.Tab("Find", id="find"):
                _build_find(catalogue, question, chosen)
            with gr.Tab("Try", id="try"):
                _build_try(catalogue, question, chosen)
            with gr.Tab("Explore", id="explore"):
                _build_explore(catalogue, page)
            with gr.Tab("Models", id="models"):
                _build_models(catalogue, page)
        for function in make_api(catalogue):
            gr.api(function, api_name=function.__name__, concurrency_id="labels")
    return page


_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


# --- find -------------------------------------------------------------------------------------------------------------


def find(catalogue: Catalogue, question: Question) -> tuple[str, str, Any, str, str, Any, str, str, str]:
    """All that is shown in answer to a question.

    Returns:
        The ranking; heading, figure and table of the heat map; matches; figure of the costs; Python and shell code; and
        what the next tab says of the chosen models.

    Raises:
        MLLError: No model fits, or the labels cannot be had.
    """
    selection = catalogue.select(question)
    labels = answers.pinned_location(catalogue.source)
    heat = precision_heatmap(selection)
    return (
        pages.selection_html(selection, question.licenses),
        pages.heatmap_head(selection, heat.layout.height),
        heat,
        pages.heatmap_in_words(selection),
        pages.matches_html(selection, catalogue.graph) if any(selection.matches) else "",
        precision_by_cost(selection),
        answers.python_code(question, labels),
        answers.shell_code(question, labels),
        pages.chosen_html(selection),
    )


def _build_find(catalogue: Catalogue, question: gr.State, chosen: gr.HTML) -> None:
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
            info="optional; any words will do",
        )
        task = gr.Textbox(label="What are they for?", info="optional", placeholder="pipe inspection", max_length=200)
    with gr.Accordion("Class names from a file or a data set", open=False), gr.Row():
        file = gr.File(label="A text, CSV or JSON file of class names", file_types=_FILE_TYPES, height=140)
        with gr.Column():
            dataset = gr.Textbox(
                label="Or the id of an image data set on the Hub", placeholder="ylecun/mnist", max_length=300
            )
            read = gr.Button("Read its class names", size="sm")
    with gr.Accordion("Number of models and limits", open=False), gr.Row():
        k = gr.Slider(1, answers.MOST_MODELS, value=1, step=1, label="Models to combine", info="several vote together")
        gflops = gr.Number(0, label="Most GFLOPs per image", info="0 for any", minimum=0)
        parameters = gr.Number(0, label="Most parameters, in millions", info="0 for any", minimum=0)
        license = gr.Dropdown(
            LICENSES,
            value="",
            allow_custom_value=True,
            label="License",
            info="as the models’ pages say today; or write your own: mit, openrail",
        )
    ask = gr.Button("Find models", variant="primary", size="lg")
    answer = gr.HTML(pages.FIND_EMPTY)
    with gr.Column(visible=False) as details:
        heat_head = gr.HTML()
        heat = gr.Plot(show_label=False, elem_id="mll-heat", elem_classes=_PLOT)
        words = gr.HTML()
        matches = gr.HTML()
        gr.HTML(pages.COST_HEAD)
        cost = gr.Plot(show_label=False, elem_id="mll-cost", elem_classes=[*_PLOT, "points"])
        gr.HTML(pages.CODE_HEAD)
        python = gr.Code(
            label="Python", language="python", interactive=False, lines=1, show_line_numbers=False, wrap_lines=True
        )
        shell = gr.Code(
            label="Command line", language="shell", interactive=False, lines=1, show_line_numbers=False, wrap_lines=True
        )

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
            found = find(catalogue, asked)
        except MLLError as error:
            nothing = {question: None, chosen: pages.TRY_FIRST}
            return {answer: pages.alert(error), details: gr.Column(visible=False), **nothing}
        parts = (answer, heat_head, heat, words, matches, cost, python, shell, chosen)
        return {question: asked, details: gr.Column(visible=True), **dict(zip(parts, found, strict=True))}

    def fill(read_names: Callable[[Any], tuple[str, ...]]) -> Callable[[Any], dict[Any, Any]]:
        def act(given: Any) -> dict[Any, Any]:  # noqa: ANN401 - a path or a text
            try:
                return {classes: answers.names_as_text(read_names(given)), answer: pages.FIND_EMPTY}
            except MLLError as error:
                return {answer: pages.alert(error), details: gr.Column(visible=False)}

        return act

    inputs = [classes, domain, task, k, gflops, parameters, license]
    outputs = [question, answer, details, heat_head, heat, words, matches, cost, python, shell, chosen]
    for chip, values in zip(chips, EXAMPLES.values(), strict=True):
        chip.click(lambda v=values: v, None, [classes, domain, task], queue=False, **_QUIET)
    file.upload(fill(answers.names_in_file), file, [classes, answer, details], **_QUIET)
    dataset.submit(fill(answers.names_of_dataset), dataset, [classes, answer, details], api_visibility="private")
    read.click(fill(answers.names_of_dataset), dataset, [classes, answer, details], api_visibility="private")
    ask.click(
        show, inputs, outputs, api_visibility="private", concurrency_id="labels", show_progress_on=[answer],
        trigger_mode="once",
    )  # fmt: skip


# --- try --------------------------------------------------------------------------------------------------------------


def _build_try(catalogue: Catalogue, question: gr.State, chosen: gr.HTML) -> None:
    gr.HTML(pages.TRY_HEAD)
    chosen.render()
    with gr.Row():
        with gr.Column():
            image = gr.Image(label="Your image", sources=["upload", "webcam", "clipboard"], type="filepath", height=300)
            pictures = sorted(map(str, PICTURES.glob("*.png")))
            gr.Examples(pictures, image, label="Example images", examples_per_page=8)
            with gr.Accordion("Several images at once", open=False):
                files = gr.File(
                    label=f"Up to {answers.MOST_IMAGES} images", file_count="multiple", file_types=["image"], height=140
                )
            path = gr.State(None)
            run = gr.Button("Classify", variant="primary")
        with gr.Column():
            result = gr.HTML(pages.TRY_EMPTY)

    def classify(
        asked: Question | None,
        file: str | None,
        more: list[str] | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        images = [*([file] if file else []), *(more or [])]
        try:
            trial = answers.try_models(
                catalogue, asked, images, run_one_model, lambda done, text: progress(done, desc=text, unit="models")
            )
        except MLLError as error:
            return pages.alert(error)
        return pages.trial_html(trial, [Path(name).name for name in images])

    # the file as it is: whether it is an image is found out, and said, where it is classified
    image.change(lambda file: file and file["path"], image, path, preprocess=False, queue=False, **_QUIET)
    run.click(
        classify, [question, path, files], result, api_visibility="private", concurrency_id="models",
        concurrency_limit=1, trigger_mode="once",
    )  # fmt: skip


# --- explore ----------------------------------------------------------------------------------------------------------


def _build_explore(catalogue: Catalogue, page: gr.Blocks) -> None:
    gr.HTML(pages.EXPLORE_HEAD)
    with gr.Row():
        model = gr.Dropdown([], label="Model", info="what it knows", interactive=True)
        other = gr.Dropdown([], label="Compare with", info="optional", interactive=True)
    with gr.Column(visible=False) as comparison:
        compared = gr.HTML()
        bars = gr.Plot(show_label=False, elem_classes=_PLOT)
        differences = gr.HTML()
    said = gr.HTML()
    tiles = gr.Plot(show_label=False, elem_id="mll-strengths", elem_classes=_PLOT)
    branches = gr.HTML()
    gr.HTML(pages.CONCEPT_HEAD)
    concept = gr.Textbox(label="Concept", placeholder="umbrella", max_length=200)
    look = gr.Button("Show the best models")
    best = gr.HTML(pages.CONCEPT_EMPTY)

    def fill() -> dict[Any, Any]:
        try:
            labels = catalogue.labels()
        except MLLError as error:
            return {said: pages.alert(error)}
        if not labels:
            return {said: pages.empty("No model has been measured yet.")}
        choices = list(zip(answers.shown_names(labels), (answers.names_of(label)[-2] for label in labels), strict=True))
        first = choices[0][1]
        return {
            model: gr.Dropdown(choices, value=first),
            other: gr.Dropdown([("nothing", ""), *choices], value=""),
            **show(first),
        }

    def show(name: str | None) -> dict[Any, Any]:
        try:
            label = catalogue.find(name)
            return {
                said: pages.strengths_html(label),
                tiles: strengths(label, catalogue.graph),
                branches: pages.branches_html(label, catalogue.graph),
            }
        except MLLError as error:
            return {said: pages.alert(error), tiles: None, branches: ""}

    def compare(name: str | None, against: str | None) -> dict[Any, Any]:
        if not name or not against or name == against:
            return {comparison: gr.Column(visible=False)}
        try:
            pair, graph = (catalogue.find(name), catalogue.find(against)), catalogue.graph
            text, table = pages.comparison_html(*pair, graph)
            figure = branch_comparison(*pair, graph)
            return {compared: text, bars: figure, differences: table, comparison: gr.Column(visible=True)}
        except MLLError as error:
            return {compared: pages.alert(error), bars: None, differences: "", comparison: gr.Column(visible=True)}

    def show_concept(text: str | None) -> str:
        try:
            concepts, named = catalogue.senses(text)
            return pages.concept_html(catalogue, concepts, named, text or "")
        except MLLError as error:
            return pages.alert(error)

    quiet = {"api_visibility": "private", "concurrency_id": "labels"}
    page.load(fill, None, [model, other, said, tiles, branches], show_progress="hidden", **quiet)
    model.input(show, model, [said, tiles, branches], show_progress_on=[said], **quiet)
    for control in (model, other):
        control.input(
            compare, [model, other], [compared, bars, differences, comparison], show_progress="hidden", **quiet
        )
    concept.submit(show_concept, concept, best, **quiet)
    look.click(show_concept, concept, best, **quiet)


# --- the measured models ----------------------------------------------------------------------------------------------


def _build_models(catalogue: Catalogue, page: gr.Blocks) -> None:
    gr.HTML(pages.MODELS_HEAD)
    wanted = gr.Textbox(label="Search by name", placeholder="siglip", max_length=100)
    listed = gr.HTML()
    gr.HTML(pages.HOW_TO_LABEL)

    def show(text: str | None) -> str:
        try:
            return pages.models_html(catalogue, text or "")
        except MLLError as error:
            return pages.alert(error)

    quiet = {"api_visibility": "private", "show_progress": "hidden", "concurrency_id": "labels"}
    page.load(show, wanted, listed, **quiet)
    wanted.change(show, wanted, listed, trigger_mode="always_last", **quiet)


# --- for programs -----------------------------------------------------------------------------------------------------


def make_api(catalogue: Catalogue) -> tuple[Callable[..., Any], ...]:
    """The functions that programs may call, over HTTP or as tools of an MCP server."""

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

        No model is run: every model was tested once on images of WordNet concepts, to which the classes are matched.

        Args:
            classes: Two or more class names, for example ["corroded pipe", "intact pipe", "weld"].
            k: How many models to choose; several vote together.
            domain: How the images look, for example "photo", "sketch" or "satellite image"; empty for unknown.
            task: What they are for, for example "pipe inspection"; empty for unknown.
            max_gflops: Most GFLOPs per image of a model; 0 for any.
            max_million_parameters: Most parameters of a model, in millions; 0 for any.
            licenses: Licenses that a chosen model may have, for example ["apache-2.0", "mit"]; none for any. Models
                that are listed without being chosen may have others.

        Returns:
            "models": the ten best and the chosen ones, best first, each with its id, revision, whether it is chosen,
            its estimated precision on the classes (0 to 1), its parameters and GFLOPs per image. "classes": for each
            class its estimated precision with the best chosen model, and its coverage: 1 if the tests have the class,
            0 if nothing like it, where the precision is only the models' general level. "code": a Python program that
            makes the same choice.
        """
        with _said_to_programs():
            question = answers.make_question(
                classes, domain, task, k, max_gflops, max_million_parameters, licenses or ()
            )
            selection = catalogue.select(question)
            return _selection_record(
                selection, answers.python_code(question, answers.pinned_location(catalogue.source))
            )

    def explain_class(class_name: str, other_classes: list[str] | None = None, k: int = 3) -> dict[str, Any]:
        """Say which WordNet concepts stand for a class name, and how well the best models recognize each of them.

        Args:
            class_name: The class, for example "corroded pipe".
            other_classes: The other classes of the task; a model has to choose among all of them.
            k: How many of the best models to tell about.

        Returns:
            "coverage": 1 if the tests have the class, 0 if nothing like it. "concepts": the concepts with their weight,
            definition and each model's precision on them (0 to 1). "models": the ids that these precisions belong to.
        """
        with _said_to_programs():
            others = other_classes or ["something else"]
            question = answers.make_question([class_name, *others], k=k)
            return _class_record(catalogue.select(question), catalogue, question.classes[0])

    def compare_models(first: str, second: str) -> dict[str, Any]:
        """Say where one measured model is better than another: overall, by branch of WordNet, and by concept.

        Args:
            first: Id of a measured model, for example "org/model", or the last part of it.
            second: Id of another one.

        Returns:
            "precision": mean share of a concept's images that each recognizes. "branches": for each branch the
            precision of both. "concepts": those on which they differ most surely, with the difference in standard
            errors.
        """
        with _said_to_programs():
            return _comparison_record(catalogue, first, second)

    return select_models, explain_class, compare_models


class _said_to_programs:  # noqa: N801 - used as a function
    """Tells programs in one line what is wrong."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MLLError):
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from None


def _selection_record(selection: Selection, code: str) -> dict[str, Any]:
    shown = sorted({*range(min(10, len(selection.models))), *selection.union})
    best = selection.scores[list(selection.union)].max(axis=0)
    return {
        "models": [
            {
                "id": selection.models[m].ref.repo_id,
                "revision": selection.models[m].ref.revision,
                "chosen": m in selection.union,
                "precision": round(float(selection.overall[m]), 4),
                "parameters": selection.models[m].cost.parameters,
                "gflops": selection.models[m].cost.gflops,
            }
            for m in shown
        ],
        "classes": [
            {"name": name, "precision": round(float(best[y]), 4), "coverage": round(float(selection.coverage[y]), 4)}
            for y, name in enumerate(selection.classes)
        ],
        "code": code,
    }


def _class_record(selection: Selection, catalogue: Catalogue, name: str) -> dict[str, Any]:
    matched = selection.explain(name)
    graph = catalogue.graph if matched else None
    return {
        "class": name,
        "coverage": round(float(selection.coverage[selection.classes.index(name)]), 4),
        "models": [selection.models[m].ref.repo_id for m in selection.union],
        "concepts": [
            {
                "id": concept.id,
                "name": concept.name,
                "definition": graph.concepts[graph.index[concept.id]].definition,
                "weight": round(concept.weight, 4),
                "precision": [round(value, 4) for value in concept.precision],
            }
            for concept in matched
        ],
    }


def _comparison_record(catalogue: Catalogue, first: str, second: str) -> dict[str, Any]:
    graph, pair = catalogue.graph, (catalogue.find(first), catalogue.find(second))
    difference = label_difference(*pair, graph)
    surest = np.argsort(-np.abs(difference.z), kind="stable")[:20]
    return {
        "models": [label.model.repo_id for label in pair],
        "precision": [round(label.mean_precision, 4) for label in pair],
        "branches": [
            {"name": one.name, "concepts": one.concepts, "precision": [round(b.precision, 4) for b in (one, other)]}
            for one, other in pages.branch_pairs(*pair, graph)
        ],
        "concepts": [
            {
                "id": graph.concepts[v].id,
                "name": graph.concepts[v].name,
                "precision": [round(float(label.node_precision[v]), 4) for label in pair],
                "standard_errors": round(float(z), 2),
            }
            for v, z in zip(difference.concepts[surest], difference.z[surest], strict=True)
        ],
    }


# --- start ------------------------------------------------------------------------------------------------------------


def serve(catalogue: Catalogue, **options: Any) -> gr.Blocks:  # noqa: ANN401 - passed on to Gradio
    """Start the page; a program that speaks MCP finds its tools beside it.

    Args:
        catalogue: The labels.
        options: For :meth:`gradio.Blocks.launch`, such as ``server_port``.
    """
    page = build_page(catalogue)
    page.queue(max_size=100, default_concurrency_limit=2)
    page.launch(
        theme=make_theme(),
        css_paths=Path(__file__).parent / "style.css",
        max_file_size=_MOST_UPLOAD,
        max_threads=8,  # each keeps memory of its own
        mcp_server=importlib.util.find_spec("mcp") is not None,
        ssr_mode=False,
        show_error=True,
        **options,
    )
    return page


def warm_up(catalogue: Catalogue) -> None:
    """Read the labels and load the text encoder, so that the first visitor does not wait."""
    try:
        catalogue.select(Question(("dog", "cat")))
    except MLLError as error:
        print(f"error: {error}", file=sys.stderr)  # visitors are told too


def main() -> int:
    """Serve until the Space is stopped; returns the exit status."""
    try:
        settings = Settings.from_environment(os.environ)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    catalogue = Catalogue(settings, CachedEncoder(default_encoder()))
    threading.Thread(target=warm_up, args=[catalogue], name="warm-up", daemon=True).start()
    serve(catalogue)
    return 0


if __name__ == "__main__":
    sys.exit(main())
