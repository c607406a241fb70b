"""Texts of the page as HTML. Pure functions; untrusted texts (visitors, model cards, graphs, labels) are escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from huggingface_hub import constants

from mll_hf.hub.locations import REPO_ID
from mll_hf.matching.concept_index import COVERED
from mll_hf.selection import Figures
from mll_hf.selection.task import MIN_IMAGES
from mll_hf.utils.text import abridged, escaped, gigaflops, parameter_count, shortened

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from answers import Labels, ListedModel
    from fitting import Fitted

    from mll_hf import Selection
    from mll_hf.selection.result import MatchedConcept

_MODELS_SHOWN = 10
_CLASSES_SHOWN = 100
_CONCEPTS_SHOWN = 3  # of a class

HEAD = (
    "<h1>Which vision model fits your images?</h1>"
    "<p>Name the classes and drop some images, which need no class: you get the open model that is the best value, "
    "fitted to them, and how good it is.</p>"
)
ASK = (
    "<h2>Correct what is wrong</h2><p>What does this image show? Or choose any other below. Accuracy, class shares and "
    "classifier follow each answer.</p>"
)
LINKS = '<p class="quiet"><a href="?explore">All models and concepts</a></p>'
BACK = '<p><a href="?">← Find a model for your classes</a></p><h1>Models and concepts</h1>'
HOW_TO_USE = (
    "<p>Install first: <code>pip install '.[models,offline]'</code> in a clone of the project. The saved folder holds "
    "the chosen models with their commits, and the fitted classifiers; none of your images. Unpack it, and:</p>"
    "<pre><code>mll-hf predict photo.jpg --selection choice\n"
    "mll-hf push --selection choice --to YOUR-NAME/my-selection</code></pre>"
)
SIGN_IN = (
    '<h3>Or publish it in your own small repo</h3><p><a href="login/huggingface" target="_blank">Sign in with Hugging '
    "Face</a> in a new tab, then come back: this page keeps your fit.</p>"
)
ABOUT_MODELS = (
    '<p class="quiet"><strong>Recall</strong>: mean share of a concept’s images that the model recognizes among all '
    "concepts, by its label, a claim of its publisher. <strong>ImageNet</strong>: published zero-shot accuracy. "
    "Read a model’s page before you use it. To measure a sample of a label again, or to add your model:</p>"
    "<pre><code>mll-hf labels verify $ORG/MODEL --labels hub\n"
    "mll-hf label $ORG/MODEL --graph hf://datasets/$ORG/GRAPH --labels my-labels\n"
    "mll-hf push $ORG/MODEL --labels my-labels</code></pre>"
)


# --- parts ------------------------------------------------------------------------------------------------------------


def wrap(*parts: str) -> str:
    """Parts of the page as one block."""
    return f'<div class="mll">{"".join(parts)}</div>'


def alert(error: Exception) -> str:
    """An error in one line, announced by screen readers."""
    text = " ".join(str(error).split()).rstrip(".")
    return wrap(f'<p class="mll-alert" role="alert">{escape(text[:1].upper() + text[1:])}.</p>')


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], chosen: Collection[int] = ()) -> str:
    """A table whose cells are HTML, the first of a row its header, chosen rows highlighted; nothing without rows."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in header)
    body = "".join(
        f'<tr class="{"chosen" if n in chosen else ""}"><th scope="row">{first}</th>'
        + "".join(f"<td>{cell}</td>" for cell in others)
        + "</tr>"
        for n, (first, *others) in enumerate(rows)
    )
    return (
        f'<div class="mll-scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>'
        f"{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.0f}\u00a0%"


def _counted(count: int, one: str) -> str:
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def _hub_link(name: str) -> str:
    """Name of a model, with a link to its page if it is on the Hub."""
    if not REPO_ID.fullmatch(name):
        return escape(name)
    return f'<a href="{escape(constants.ENDPOINT)}/{name}" target="_blank" rel="noopener noreferrer">{name}</a>'


def _link(kind: str, value: str, text: str) -> str:
    """A link to the page of a model or a concept."""
    return f'<a href="?{escape(urlencode({kind: value}))}">{escape(text)}</a>'


# --- the answer -------------------------------------------------------------------------------------------------------


def card(selection: Selection, fitted: Fitted | None = None) -> str:
    """The answer: the best value, how good it is, what is better at any cost, and what would settle it."""
    lead, n_chosen = selection.models[selection.chosen_models[0]], len(selection.chosen_models)
    license = f" · license {escape(lead.license)}" if lead.license else ""
    facts = f"{parameter_count(lead.cost.parameters)} parameters · {gigaflops(lead.cost.gflops)} GFLOPs per image"
    others = f" and {_counted(n_chosen - 1, 'other')}" if n_chosen > 1 else ""
    return wrap(
        '<div class="mll-card">',
        f'<p class="mll-kicker">{"Fitted to your images" if fitted and fitted.weights else "Best value"}</p>',
        f'<h2 class="mll-answer">{_hub_link(lead.name)}{others}</h2>',
        f'<p class="quiet">{facts}{license} · {_link("model", lead.name, "more about it")}</p>',
        f'<p class="quiet">For {escape(abridged(selection.classes, 5))}; rests on {selection.basis}</p>',
        _accuracy(selection, " of the first alone" if others else ""),
        _gain(selection, fitted) if fitted else "",
        *(f"<p>{escape(line)}</p>" for line in selection.answer_lines[1:]),
        f'<p class="mll-settle"><strong>What would settle it:</strong> {_settles(fitted)}</p></div>',
    )


def _accuracy(selection: Selection, whose: str) -> str:
    """The estimated accuracy of the first chosen model as a bar with its interval, if it is known."""
    estimate, m = selection.estimate, selection.chosen_models[0]
    if estimate is None or not estimate.known[m]:
        return '<p class="mll-unknown">Accuracy not known yet</p>'
    low, middle, high = (100 * float(at[m]) for at in (estimate.interval[0], estimate.accuracy, estimate.interval[1]))
    return (
        f'<div class="mll-interval" aria-hidden="true"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<b style="left:{middle:.1f}%"></b></div><p class="mll-accuracy"><strong>{_percent(middle / 100)}</strong> '
        f'estimated accuracy{whose} <span class="quiet">(90\u00a0% interval: {low:.0f} to {high:.0f}\u00a0%)</span></p>'
    )


def _gain(selection: Selection, fitted: Fitted) -> str:
    """What was tried, and what the fit changed for the best model, measured on images that it was not fitted to."""
    trial, counted, n_models = selection.trial, len(fitted.counted), len(selection.models)
    skipped = f" {_counted(fitted.n_unreadable, 'file')} could not be read." if fitted.n_unreadable else ""
    if trial is None:
        return f"<p>{_counted(len(fitted.images), 'image')} classified.{skipped}</p>"
    gain = "Agreement with all models together:"
    if counted:
        gain = f"Of {_counted(counted, 'image')} that you were asked for, correct in cross-validation:"
    whose = ", by the first alone" if len(selection.chosen_models) > 1 else ""
    gain += f" {_percent(trial.zero_shot[0])} zero-shot, {_percent(trial.fitted[0])} fitted{whose}."
    is_known = selection.estimate is not None and bool(selection.estimate.known[0])
    if (not is_known) if counted else n_models == 1:
        gain = ""  # too few to tell, or no other to agree with
    return f"<p>{_counted(n_models, 'model')} tried on {_counted(trial.n_images, 'image')}.{skipped} {gain}</p>"


def _settles(fitted: Fitted | None) -> str:
    if fitted is None:
        return (
            f"{MIN_IMAGES} or more of your images, which need no class: models are tried on them and fitted to them. "
            "The class of about 25, by a click each, tells the accuracy."
        )
    if not fitted.weights:
        return f"{MIN_IMAGES} images or more. These are only classified, since they are too few to fit a model to."
    if left := len(fitted.weights) - len(fitted.counted):
        return f"the class of {_counted(left, 'more image')} that this page asks for."
    return "nothing more here; add images if the interval is too wide."


def captions(fitted: Fitted) -> list[tuple[str, str]]:
    """Thumbnails with their class: as told, or predicted with its probability."""
    shown = []
    for n, path in enumerate(fitted.thumbnails):
        name = shortened(fitted.question.classes[fitted.class_of(n)], 40)
        share = _percent(fitted.probabilities[n].max())
        shown.append((path, f"✓ {name}" if n in fitted.answers else f"{name} {share}"))
    return shown


_BASED_ON = {
    Figures.LABEL: "label",
    Figures.PUBLISHED: "ImageNet accuracy",
    Figures.NOMINATED: "figures for this domain or language",
    Figures.NONE: "nothing",
}


def shown_models(selection: Selection) -> list[int]:
    """Positions of the best models and of all chosen ones."""
    return sorted({*range(min(_MODELS_SHOWN, len(selection.models))), *selection.chosen_models})


def details(selection: Selection) -> str:
    """What is known about the classes, the ranking, and the concepts of each class."""
    shown = shown_models(selection)
    rows = [
        [
            _hub_link(model.name) + (' <span class="mll-badge">chosen</span>' if m in selection.chosen_models else ""),
            selection.estimate.text(m) if selection.estimate else "not known",
            gigaflops(model.cost.gflops),
            parameter_count(model.cost.parameters),
            _BASED_ON[model.figures],
            escape(model.license or "unknown"),
        ]
        for m, model in ((m, selection.models[m]) for m in shown)
    ]
    header = ("model", "estimated accuracy", "GFLOPs per image", "parameters", "based on", "license")
    chosen = [row for row, m in enumerate(shown) if m in selection.chosen_models]
    matched = list(zip(selection.classes, selection.matches, selection.coverage.tolist(), strict=False))
    matches = [
        [escape(shortened(name, 60)), _concepts(concepts, cover), _percent(cover)]
        for name, concepts, cover in matched[:_CLASSES_SHOWN]
    ]
    uncovered = [shortened(name, 40) for name, _, cover in matched if cover < COVERED]
    which = "any of your classes" if len(uncovered) == len(selection.classes) else escape(abridged(uncovered, 5))
    return wrap(
        *(f"<p>{escape(note)}</p>" for note in selection.notes),
        f'<p class="mll-note" role="note">The test images have nothing close enough to {which}: there the models’ '
        "general level is used, so do not rely on the order. A few dozen of your images are a better guide.</p>"
        * bool(uncovered),
        table("Ranking", header, rows, chosen),
        f'<p class="quiet">{_counted(len(selection.models), "model")} compared. Licenses are as published: read the '
        "models’ pages.</p>",
        table("Matches", ("your class", "concepts whose test images are used", "covered"), matches),
    )


def _concepts(concepts: Sequence[MatchedConcept], coverage: float) -> str:
    if coverage < 0.1:
        return "nothing close"
    return ", ".join(
        f"{_link('concept', match.id, match.name)} {_percent(match.weight)}"
        for match in concepts[:_CONCEPTS_SHOWN]
        if match.weight >= 0.05 * concepts[0].weight
    )


def published(repo_id: str) -> str:
    """Where a selection was published."""
    return wrap(f"<p>Published: {_hub_link(repo_id)}</p>")


# --- all models, one model, one concept -------------------------------------------------------------------------------

COLUMNS = ("model", "recall, %", "ImageNet, %", "parameters, M", "GFLOPs", "license")


def leaderboard(models: Sequence[ListedModel]) -> list[list[str | float | None]]:
    """Rows of models for :data:`COLUMNS`; the first column is Markdown."""
    return [
        [
            f"[{escaped(model.name)}](?{urlencode({'model': model.name})})",
            None if model.recall is None else round(100 * model.recall, 1),
            None if model.imagenet is None else round(100 * model.imagenet, 1),
            round(model.cost.parameters / 1e6, 1) or None,
            round(model.cost.gflops, 2) or None,
            model.license or "unknown",
        ]
        for model in models
    ]


def about_models(labels: Labels) -> str:
    """What the columns mean, and the labels that are left out."""
    items = [f"<li>{escape(text)}</li>" for text in labels.client.labels.left_out]
    left_out = f"<details><summary>Labels that are left out</summary><ul>{''.join(items)}</ul></details>"
    return wrap(ABOUT_MODELS, left_out if items else "")


def model_page(model: ListedModel) -> str:
    """All facts about a model."""
    facts = [
        ["figures by", escape(model.origin)],
        ["license", escape(model.license or "unknown")],
        ["parameters", parameter_count(model.cost.parameters) if model.cost.parameters else "unknown"],
        ["GFLOPs per image", gigaflops(model.cost.gflops) if model.cost.gflops else "unknown"],
        ["ImageNet accuracy, published", _percent(model.imagenet)],
    ]
    for graph, label in model.tests:
        recall = f"{_percent(label.mean_recall)} over {_counted(label.n_tested, 'concept')}"
        facts.append([f"mean recall on {escape(graph.name)}", recall])
    published = [
        [escape(one.dataset), _percent(one.value), escape(one.metric), escape(one.domain or "general")]
        for one in model.published
    ]
    return wrap(
        f"<h2>{_hub_link(model.name)}</h2>",
        table(f"About {model.name}", ("fact", "value"), facts),
        table("Published figures", ("data set", "figure", "metric", "domain"), published),
    )


def concept_page(labels: Labels, text: str) -> str:
    """The concepts that a text may mean, and the models with the highest recall on each."""
    parts = []
    for concept in labels.concepts(text):
        rows = [
            [_link("model", model.name, model.name), _percent(recall), str(images), escape(graph)]
            for graph, model, recall, images in labels.best_at(concept)[:_MODELS_SHOWN]
        ]
        best = table(f"Best at {concept.name}", ("model", "recall", "images", "graph"), rows)
        best = best or '<p class="quiet">No label tests this concept.</p>'
        parts.append(f"<h2>{escape(concept.name)}</h2><p>{escape(concept.definition)}</p>{best}")
    return wrap(*parts)
