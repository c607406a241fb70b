"""A label as text for the Hub: in its model's card, in the card of a collection, as an evaluation result; and back.

Names in graphs and labels come from strangers: here they become text that is only text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mll_hf.errors import InputError
from mll_hf.hub.claim import (
    COLLECTION_TAG,
    GRAPH_TAG_PREFIX,
    LABEL_PATH,
    LABEL_TAG,
    LONGEST_NAME,
    CardClaim,
    block_of,
    claim_of,
    graph_tag,
    read_claim,
    yaml_scalar,
)
from mll_hf.hub.readme import edit_readme, put_section
from mll_hf.labels.branches import branch_precisions
from mll_hf.utils.text import markdown_table, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.branches import Branch
    from mll_hf.labels.label import LabelSummary, ModelLabel

EVAL_RESULTS_PATH = ".eval_results/mll.yaml"
_BRANCHES_SHOWN = 5
_MODELS_SHOWN = 200
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

__all__ = [
    "COLLECTION_TAG",
    "EVAL_RESULTS_PATH",
    "GRAPH_TAG_PREFIX",
    "LABEL_PATH",
    "LABEL_TAG",
    "CardClaim",
    "add_label",
    "collection_card",
    "eval_results",
    "graph_tag",
    "read_claim",
]


def add_label(readme: str, label: ModelLabel, graph: SemanticGraph, sha256: str) -> str:
    """Say in a model's card that the model has a label: two tags and a block in the metadata, a section in the text.

    What an earlier label left is replaced in place. Every other character stays. Adding a label again changes nothing.

    Args:
        readme: The README of the model's repo, line breaks as they are in the file; may be empty.
        label: The label.
        graph: Its graph.
        sha256: Of the label's file, 64 hex digits.

    Raises:
        CardError: The card cannot be edited safely.
        InputError: The label is of another graph, or of a model that is not on the Hub.
    """
    claim = claim_of(label, sha256)
    if label.graph_digest != graph.digest:
        raise InputError(f"the label is not of the graph {graph.name}; give the graph that it was measured on")
    if not _REPO_ID.fullmatch(label.model.repo_id):
        raise InputError("the label is of a model in a folder; publish the model and label it as org/name")
    if read_claim(block_of(claim)) != claim:
        raise InputError("the label's revisions or the sha256 of its file are no full hashes; label the model anew")
    return edit_readme(readme, claim, _section_lines(label, graph, claim))


def _section_lines(label: ModelLabel, graph: SemanticGraph, claim: CardClaim) -> list[str]:
    # No link to the paper: the Hub would tag the model with it.
    return [
        "## Model label",
        "",
        f"This model has a label: how well it recognizes each of {claim.concepts:,} visual concepts of the graph "
        f'"{_escaped(claim.graph_name)}" (`{claim.graph_digest[:12]}`). It was measured at revision '
        f"`{claim.revision[:12]}` in {claim.tests:,} tests with the images of "
        f'"{_escaped(claim.probes_name)}" (`{claim.probes_revision[:12]}`). A concept\'s image counts as recognized if '
        "it is nearer to the concept than to all concepts that it does not show. On average that is so for "
        f"{claim.precision:.1%} of a concept's images, give or take {label.mean_precision_margin:.1%} for the "
        "choice of images.",
        "",
        *_branch_tables(branch_precisions(label, graph)),
        f"The label is the file `{LABEL_PATH}`. From labels alone `mll-hf` tells which models suit a list of classes:",
        "",
        "```bash",
        "pip install 'mll-hf[match]'",
        "mll-hf select --classes 'dog, cat, car' --labels hub",
        f"mll-hf labels show {label.model.repo_id} --labels hub",
        "```",
    ]


def _branch_tables(branches: Sequence[Branch]) -> list[str]:
    """The best of the better half of the branches, and the worst of the other half."""
    half = (len(branches) + 1) // 2
    lines: list[str] = []
    for title, shown in (("strongest", branches[:half]), ("weakest", branches[half:][::-1])):
        rows = [
            [
                _escaped(shortened(b.name, 60)),
                f"{b.precision:.1%}",
                str(b.concepts),
                _escaped(shortened(b.definition, 80)),
            ]
            for b in shown[:_BRANCHES_SHOWN]
        ]
        header = [f"{title} branches", "recognized", "concepts", "meaning"]
        lines += [*markdown_table(header, ["---", "---:", "---:", "---"], rows), ""] if rows else []
    return lines


def collection_card(repo_id: str, graph: SemanticGraph, labels: Sequence[LabelSummary], readme: str = "") -> str:
    """The README of a dataset repo that collects labels of one graph.

    Args:
        repo_id: ``owner/name`` of the dataset repo.
        graph: The graph.
        labels: The labels; the table has the best 200.
        readme: The README so far; all but our section of it stays. Without one, metadata and a title are added.

    Raises:
        CardError: The comments that mark our section are no pair.
    """
    if not readme.strip():
        readme = _collection_head(graph)
    return put_section(readme, _collection_section(repo_id, graph, labels))


def _collection_head(graph: SemanticGraph) -> str:
    lines = [
        "---",
        "license: apache-2.0",
        f"pretty_name: {yaml_scalar(f'Model labels on the graph {printable(graph.name)[:LONGEST_NAME]}')}",
        "tags:",
        f"- {COLLECTION_TAG}",
        f"- {graph_tag(graph.digest)}",
        "viewer: false",
        "---",
        "",
        f"# Model labels on the graph {_escaped(graph.name[:LONGEST_NAME])}",
    ]
    return "\n".join(lines) + "\n"


def _collection_section(repo_id: str, graph: SemanticGraph, labels: Sequence[LabelSummary]) -> list[str]:
    source = f"hf://datasets/{repo_id}"
    ranked = sorted(labels, key=lambda label: (-label.mean_precision, label.model.repo_id, label.model.revision))
    more = len(ranked) - _MODELS_SHOWN
    return [
        f"A label says how well a vision-language model recognizes each of {len(graph):,} visual concepts "
        f"(graph `{graph.digest[:12]}`). Every model was measured once. From these labels `mll-hf` tells which models "
        "suit a list of classes and how to combine them; no model is run or downloaded for the answer.",
        "",
        "```bash",
        "pip install 'mll-hf[match]'",
        f"mll-hf select --classes 'dog, cat, car' --labels {source}",
        f"mll-hf labels ls --labels {source}",
        "```",
        "",
        "The method is Model Label Learning ([arXiv 2501.18271](https://arxiv.org/abs/2501.18271)).",
        "",
        "## Models",
        "",
        *markdown_table(
            ["model", "revision", "precision", "parameters", "GFLOPs"],
            ["---", "---", "---:", "---:", "---:"],
            [_model_row(label) for label in ranked[:_MODELS_SHOWN]],
        ),
        "",
        *([f"And {more:,} more: `mll-hf labels ls --labels {source}`", ""] if more > 0 else []),
        "Precision: the share of a concept's images that the model recognizes against all concepts that they do not "
        "show, averaged over the concepts. GFLOPs: to encode one image.",
    ]


def _model_row(label: LabelSummary) -> list[str]:
    model, cost = label.model, label.cost
    name, revision = _escaped(model.short_name if model.is_local else model.repo_id), f"`{model.revision[:7]}`"
    if _REPO_ID.fullmatch(model.repo_id):
        url = f"https://huggingface.co/{model.repo_id}"
        name, revision = f"[{name}]({url})", f"[{revision}]({url}/tree/{model.revision})"
    return [name, revision, f"{label.mean_precision:.3f}", f"{cost.parameters / 1e6:.1f} M", f"{cost.gflops:.3g}"]


def eval_results(label: ModelLabel, dataset_id: str, task_id: str, source_url: str | None) -> str:
    """A label's mean node precision as an evaluation result: the content of EVAL_RESULTS_PATH.

    The value is in percent. The Hub shows it only where the dataset is registered as a benchmark.

    Args:
        label: The label.
        dataset_id: The dataset repo of the probe images.
        task_id: The task, as the dataset's ``eval.yaml`` names it.
        source_url: Where more can be read, if anywhere.
    """
    notes = (
        "Share of a concept's images that the model recognizes, in percent, averaged over "
        f"{int((label.support > 0).sum())} concepts of graph {label.graph_digest[:12]}"
    )
    lines = [
        "- dataset:",
        f"    id: {yaml_scalar(dataset_id)}",
        f"    task_id: {yaml_scalar(task_id)}",
        f"    revision: {yaml_scalar(label.probes_revision)}",
        f"  value: {yaml_scalar(round(100 * label.mean_precision, 2))}",
        *([] if source_url is None else ["  source:", f"    url: {yaml_scalar(source_url)}"]),
        f"  notes: {yaml_scalar(notes)}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text that is only text: what means something to Markdown or HTML becomes a character reference."""
    return re.sub(r"[!\"#$&*:<>@\[\\\]^_`{|}~]", lambda found: f"&#{ord(found[0])};", printable(text))
