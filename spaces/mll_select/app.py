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
import numpy as np
import pages
from answers import Labels, Library, Question, Settings
from look import make_theme

from mll_hf.cli.report import label_difference
from mll_hf.errors import InputError, MLLError
from mll_hf.labels.branches import branch_pairs
from mll_hf.matching.text_encoder import CachedEncoder, default_encoder
from mll_hf.plots.labels import branch_comparison, strengths
from mll_hf.plots.selection import accuracy_by_cost, accuracy_heatmap, shown_models

try:
    from spaces import GPU  # only on ZeroGPU
except ImportError:
    run_one_model = answers.run_one_model
else:
    run_one_model = GPU(duration=60)(answers.run_one_model)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mll_hf import Selection
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import LabelSummary

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


def build_page(library: Library) -> gr.Blocks:
    """The page; its functions for programs are documented by their docstrings."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(pages.HEAD)
        question = gr.State(None)
        chosen = gr.HTML(pages.TRY_FIRST, render=False)
        with gr.Tabs():
            with gr.Tab("Find", id="find"):
                _build_find(library, question, chosen)
            with gr.Tab("Try", id="try"):
                _build_try(library, question, chosen)
            with gr.Tab("Explore", id="explore"):
                _build_explore(library, page)
            with gr.Tab("Models", id="models"):
                _build_models(library, page)
        for function in make_api(library):
            gr.api(function, api_name=function.__name__, concurrency_id="labels")
    return page


_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def _or_alert(function: Callable[..., str]) -> Callable[..., str]:
    """The function, with errors turned into the alert that is shown in place of its answer."""

    @functools.wraps(function)
    def act(*args: Any, **options: Any) -> str:  # noqa: ANN401 - passed on
        try:
            return function(*args, **options)
        except MLLError as error:
            return pages.alert(error)

    return act


# --- find -------------------------------------------------------------------------------------------------------------


def find(labels: Labels, question: Question) -> tuple[str, str, Any, str, str, Any, str, str, str]:
    """All that is shown in answer to a question.

    Returns:
        The ranking; heading, figure and table of the heat map; matches; figure of the costs; Python and shell code; and
        the chosen models for the next tab.

    Raises:
        MLLError: No model fits, or the Hub cannot be asked for licenses.
    """
    selection, joined = labels.select(question), labels.joined
    left_out = {id for one in joined.left_out for id in one.models} if joined else set()
    ranked = {model.label.model.repo_id for model in labels.models}
    heat = accuracy_heatmap(selection)
    return (
        pages.selection_html(selection, question.config.licenses, len(left_out - ranked)),
        pages.heatmap_head(selection, heat.layout.height),
        heat,
        pages.heatmap_in_words(selection),
        pages.matches_html(selection, joined.union.graph) if joined and any(selection.matches) else "",
        accuracy_by_cost(selection),
        answers.python_code(question, labels.location),
        answers.shell_code(question, labels.location),
        pages.chosen_html(selection),
    )


def _build_find(library: Library, question: gr.State, chosen: gr.HTML) -> None:
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
    with gr.Accordion("Class names from a file or a dataset", open=False), gr.Row():
        file = gr.File(label="A text, CSV or JSON file of class names", file_types=_FILE_TYPES, height=140)
        with gr.Column():
            dataset = gr.Textbox(
                label="Or the id of an image dataset on the Hub", placeholder="ylecun/mnist", max_length=300
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
            info="as labels and the models’ pages name it; or write your own: mit, openrail",
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
            found = find(library.labels, asked)
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


def _build_try(library: Library, question: gr.State, chosen: gr.HTML) -> None:
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
            run = gr.Button("Classify", variant="primary")
        with gr.Column():
            result = gr.HTML(pages.TRY_EMPTY)

    @_or_alert
    def classify(
        asked: Question | None,
        file: dict[str, Any] | None,
        more: list[dict[str, Any]] | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        images = [each["path"] for each in (file, *(more or ())) if each]
        trial = answers.try_models(
            library.labels, asked, images, run_one_model, lambda done, text: progress(done, desc=text, unit="models")
        )
        return pages.trial_html(trial, [Path(path).name for path in images])

    # not preprocessed, so that a file that is no image reaches classify, which reports it
    run.click(
        classify, [question, image, files], result, preprocess=False, api_visibility="private", concurrency_id="models",
        concurrency_limit=1, trigger_mode="once",
    )  # fmt: skip


# --- explore ----------------------------------------------------------------------------------------------------------


def _build_explore(library: Library, page: gr.Blocks) -> None:
    gr.HTML(pages.EXPLORE_HEAD)
    with gr.Row():
        model = gr.Dropdown([], label="Model", info="what it knows", interactive=True)
        other = gr.Dropdown([], label="Compare with", info="optional", interactive=True)
        graph = gr.Dropdown([], label="Graph", info="the concepts of the test", interactive=True, visible=False)
    with gr.Column(visible=False) as comparison:
        compared = gr.HTML()
        bars = gr.Plot(show_label=False, elem_classes=_PLOT)
        differences = gr.HTML()
    summary = gr.HTML()
    tiles = gr.Plot(show_label=False, elem_id="mll-strengths", elem_classes=_PLOT)
    branches = gr.HTML()
    gr.HTML(pages.CONCEPT_HEAD)
    concept = gr.Textbox(label="Concept", placeholder="umbrella", max_length=200)
    look = gr.Button("Show the best models")
    best = gr.HTML(pages.CONCEPT_EMPTY)

    def fill() -> dict[Any, Any]:
        try:
            labels = library.labels
        except MLLError as error:
            return {summary: pages.alert(error)}
        if not labels.models:
            return {summary: pages.empty("No model has been measured yet.")}
        names, graphs = [model.name for model in labels.models], list(labels.graphs)
        return {
            model: gr.Dropdown(names, value=names[0]),
            other: gr.Dropdown([("nothing", ""), *((name, name) for name in names)], value=""),
            graph: gr.Dropdown(graphs, value=graphs[0], visible=len(graphs) > 1),
            **show(names[0], graphs[0]),
        }

    def show(name: str | None, graph_name: str | None) -> dict[Any, Any]:
        try:
            labels = library.labels
            (label,), concepts = labels.read_labels([labels.find(name)], graph_name)
        except MLLError as error:
            return {summary: pages.alert(error), tiles: None, branches: ""}
        return {
            summary: pages.strengths_html(label),
            tiles: strengths(label, concepts),
            branches: pages.branches_html(label, concepts),
        }

    def compare(name: str | None, against: str | None, graph_name: str | None) -> dict[Any, Any]:
        if not name or not against or name == against:
            return {comparison: gr.Column(visible=False)}
        try:
            labels = library.labels
            pair = [labels.find(name), labels.find(against)]
            both, concepts = labels.read_labels(pair, graph_name)
            text, table = pages.comparison_html(pair, both, concepts)
            figure = branch_comparison(*both, concepts)
        except MLLError as error:
            text, figure, table = pages.alert(error), None, ""
        plot = gr.Plot(figure, visible=figure is not None)
        return {compared: text, bars: plot, differences: table, comparison: gr.Column(visible=True)}

    @_or_alert
    def show_concept(text: str | None) -> str:
        labels = library.labels
        return pages.concept_html(labels, *labels.senses(text), text or "")

    quiet = {"api_visibility": "private", "concurrency_id": "labels"}
    page.load(fill, None, [model, other, graph, summary, tiles, branches], show_progress="hidden", **quiet)
    for control in (model, graph):
        control.input(show, [model, graph], [summary, tiles, branches], show_progress_on=[summary], **quiet)
    for control in (model, other, graph):
        control.input(
            compare, [model, other, graph], [compared, bars, differences, comparison], show_progress="hidden", **quiet
        )
    concept.submit(show_concept, concept, best, **quiet)
    look.click(show_concept, concept, best, **quiet)


# --- models -----------------------------------------------------------------------------------------------------------


def _build_models(library: Library, page: gr.Blocks) -> None:
    gr.HTML(pages.MODELS_HEAD)
    search = gr.Textbox(label="Search by name", placeholder="siglip", max_length=100)
    listed = gr.HTML()
    gr.HTML(pages.HOW_TO_LABEL)

    @_or_alert
    def show(text: str | None) -> str:
        return pages.models_html(library.labels, text or "")

    quiet = {**_QUIET, "concurrency_id": "labels"}
    page.load(show, search, listed, **quiet)
    search.change(show, search, listed, trigger_mode="always_last", **quiet)


# --- for programs -----------------------------------------------------------------------------------------------------


def make_api(library: Library) -> tuple[Callable[..., Any], ...]:
    """Functions for programs, over HTTP or as tools of an MCP server; their docstrings are the documentation."""

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

        No model is run: every model was tested once on images of visual concepts, to which the classes are matched.

        Args:
            classes: Two or more class names, for example ["corroded pipe", "intact pipe", "weld"].
            k: How many models to choose; several vote together.
            domain: How the images look, for example "photo", "sketch" or "satellite image"; empty if unknown.
            task: What they are for, for example "pipe inspection"; empty if unknown.
            max_gflops: Most GFLOPs per image of a model; 0 for any.
            max_million_parameters: Most parameters of a model, in millions; 0 for any.
            licenses: Licenses that a chosen model may have, for example ["apache-2.0", "mit"]; none for any. Models
                that are listed without being chosen may have others.

        Returns:
            "answer": the best model, the cheapest that is as good, and whether the choice matters, as sentences.
            "models": the ten best and the chosen ones, best first, each with its id, revision, whether it is chosen,
            its estimated accuracy on the user's images (0 to 1; null if the 90 % interval is wider than .5) with that
            interval, its recall on test images of the classes, its parameters and GFLOPs per image. "classes": for each
            class the recall of the best chosen model, and its coverage: 1 if the tests have the class, 0 if nothing
            like it, where the recall is only the models' general level. "code": a Python program that makes the same
            choice.
        """
        with _errors_for_programs():
            question = answers.make_question(
                classes, domain, task, k, max_gflops, max_million_parameters, licenses or ()
            )
            labels = library.labels
            return _selection_record(labels.select(question), answers.python_code(question, labels.location))

    def explain_class(class_name: str, other_classes: list[str] | None = None, k: int = 3) -> dict[str, Any]:
        """Tell which visual concepts a class name is matched to, and how well the best models recognize them.

        Args:
            class_name: The class, for example "corroded pipe".
            other_classes: The other classes of the task; a model has to choose among all of them.
            k: Number of the best models.

        Returns:
            "coverage": 1 if the tests have the class, 0 if nothing like it. "concepts": the concepts with their weight,
            definition and each model's recall on them (0 to 1, or null if it was not measured). "models": the ids of
            these models.
        """
        with _errors_for_programs():
            question = answers.make_question([class_name, *(other_classes or ["something else"])], k=k)
            labels = library.labels
            return _class_record(labels.select(question), labels, question.classes[0])

    def compare_models(first: str, second: str, graph: str = "") -> dict[str, Any]:
        """Tell where one measured model is better than another: overall, by branch of the graph, and by concept.

        Args:
            first: Id of a measured model, for example "org/model", or the last part of it.
            second: Id of another one.
            graph: Name of the graph of concepts; empty for the one that all models were measured on.

        Returns:
            "recall": mean share of a concept's images that each recognizes. "branches": the recall of both for each
            branch. "concepts": those with the most significant differences, with the difference in standard errors.
        """
        with _errors_for_programs():
            labels = library.labels
            pair = [labels.find(first), labels.find(second)]
            return _comparison_record(*labels.read_labels(pair, graph))

    return select_models, explain_class, compare_models


@contextlib.contextmanager
def _errors_for_programs() -> Iterator[None]:
    """Report errors in one line."""
    try:
        yield
    except MLLError as error:
        raise gr.Error(" ".join(str(error).split()), print_exception=False) from None


def _selection_record(selection: Selection, code: str) -> dict[str, Any]:
    best = selection.scores[list(selection.union)].max(axis=0)
    return {
        "answer": list(selection.answer_lines),
        "models": [
            {
                "id": selection.models[m].ref.repo_id,
                "revision": selection.models[m].ref.revision,
                "chosen": m in selection.union,
                "accuracy": _accuracy_record(selection, m),
                "recall": round(float(selection.overall[m]), 4),
                "parameters": selection.models[m].cost.parameters,
                "gflops": selection.models[m].cost.gflops,
            }
            for m in shown_models(selection, 10)
        ],
        "classes": [
            {"name": name, "recall": round(recall, 4), "coverage": round(coverage, 4)}
            for name, recall, coverage in zip(
                selection.classes, best.tolist(), selection.coverage.tolist(), strict=True
            )
        ],
        "code": code,
    }


def _accuracy_record(selection: Selection, m: int) -> dict[str, Any] | None:
    estimates = selection.estimates
    if estimates is None:
        return None
    ends = {"low": round(float(estimates.low[m]), 4), "high": round(float(estimates.high[m]), 4)}
    return {"estimate": round(float(estimates.accuracy[m]), 4) if estimates.known[m] else None, **ends}


def _class_record(selection: Selection, labels: Labels, name: str) -> dict[str, Any]:
    graph = labels.joined.union.graph if labels.joined else None
    return {
        "class": name,
        "coverage": round(float(selection.coverage[selection.classes.index(name)]), 4),
        "models": [selection.models[m].ref.repo_id for m in selection.union],
        "concepts": [
            {
                "id": match.id,
                "name": match.name,
                "definition": graph.concepts[graph.index[match.id]].definition,
                "weight": round(match.weight, 4),
                "recall": [None if recall is None else round(recall, 4) for recall in match.recall],
            }
            for match in (selection.explain(name) if graph else ())
        ],
    }


def _comparison_record(pair: tuple[LabelSummary, ...], graph: SemanticGraph) -> dict[str, Any]:
    difference = label_difference(*pair, graph)
    most = np.argsort(-np.abs(difference.z), kind="stable")[:20]
    return {
        "models": [label.model.repo_id for label in pair],
        "recall": [round(label.mean_recall, 4) for label in pair],
        "branches": [
            {"name": one.name, "concepts": one.concepts, "recall": [round(b.recall, 4) for b in (one, other)]}
            for one, other in branch_pairs(*pair, graph)
        ],
        "concepts": [
            {
                "id": graph.concepts[v].id,
                "name": graph.concepts[v].name,
                "recall": [round(float(label.node_precision[v]), 4) for label in pair],
                "standard_errors": round(float(z), 2),
            }
            for v, z in zip(difference.concepts[most], difference.z[most], strict=True)
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
    page.queue(max_size=100, default_concurrency_limit=2)
    page.launch(
        theme=make_theme(),
        css_paths=Path(__file__).parent / "style.css",
        max_file_size=_MOST_UPLOAD,
        max_threads=8,  # each takes memory
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
    library = Library(settings, CachedEncoder(default_encoder()))
    with contextlib.suppress(MLLError):  # logged, and shown to visitors; it is tried again
        _ = library.labels  # read before there are several threads
    serve(library)
    return 0


if __name__ == "__main__":
    sys.exit(main())
