"""The card of a selection: classes, expected accuracy, models and their licenses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.hub.card import edit_metadata, put_section
from mll_hf.hub.locations import REPO_ID
from mll_hf.utils.tables import MISSING, markdown_table
from mll_hf.utils.text import abridged, escaped, gigaflops, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mll_hf.selection.result import Selection

SELECTION_TAG = "mll-selection"
_CLASSES_SHOWN = 200
FITTED = (
    "The heads were fitted to images: anyone who has them can tell what the images of each class look like on average "
    "(they reveal the mean of their embeddings), and how frequent each class is."
)


def selection_card(selection: Selection, repo_id: str, licenses: Mapping[str, str | None], readme: str = "") -> str:
    """The README of a repo or folder with a selection, with these licenses of the chosen models; None where unknown.

    Updates our fields of the metadata and our section of the existing README, and keeps every other byte. A CardError
    if it cannot be edited.
    """
    text = edit_metadata(readme, [SELECTION_TAG], _metadata(selection, licenses))
    if not readme.strip():
        title = f"Image classifier: {shortened(abridged(selection.classes, 5), 100)}"
        text += f"\n# {escaped(title)}\n"
    return put_section(text, SELECTION_TAG, _section(selection, repo_id, licenses).split("\n"))


def _metadata(selection: Selection, licenses: Mapping[str, str | None]) -> dict[str, Any]:
    """Our metadata; None for keys to remove.

    ``base_model_relation`` is not set: the Hub's relations (finetune, adapter, merge, quantized) all change weights.
    """
    ids = [selection.models[m].ref.repo_id for m in selection.chosen_models]
    found = {licenses.get(id) or "unknown" for id in ids}
    license = found.pop() if len(found) == 1 else "unknown" if "unknown" in found else "other"
    return {
        "library_name": "mll-hf",
        "pipeline_tag": "zero-shot-image-classification",
        "base_model": list(dict.fromkeys(id for id in ids if REPO_ID.fullmatch(id))) or None,
        "license": license,
        "license_name": "licenses-of-its-models" if license == "other" else None,
        "widget": None,  # its samples show cats and dogs, which need not be among the classes
    }


def _section(selection: Selection, repo_id: str, licenses: Mapping[str, str | None]) -> str:
    n_models = len(selection.chosen_models)
    answer = [f"- {escaped(line)}" for line in selection.answer_lines]
    header = ["model", "commit", "weight", "estimated accuracy (90 % interval)", "parameters", "GFLOPs", "license"]
    rows = [_row(selection, m, licenses) for m in selection.chosen_models]
    return (
        Path(__file__)
        .with_name("card.md")
        .read_text(encoding="utf-8")
        .rstrip("\n")
        .format(
            n_classes=len(selection.classes),
            models=f"{n_models} models together" if n_models > 1 else "one model",
            repo_id=repo_id,
            quoted=json.dumps(repo_id),
            classes=abridged([escaped(name) for name in selection.classes], _CLASSES_SHOWN),
            accuracy="\n".join(["## Expected accuracy", "", *answer, "", ""]) if answer else "",
            evidence=_evidence(selection),
            fitted=f"{FITTED}\n\n" if any(head.is_fitted for head in selection.heads) else "",
            table="\n".join(markdown_table(header, rows)),
        )
    )


def _evidence(selection: Selection) -> str:
    about = (("images", selection.domain), ("task", selection.task))
    task = "; ".join(f"{key}: {escaped(shortened(text, 200))}" for key, text in about if text)
    return (
        f"Chosen by strategy `{selection.strategy}` among {len(selection.models):,} models, by {selection.basis}"
        f"{f' ({task})' if task else ''}."
    )


def _row(selection: Selection, m: int, licenses: Mapping[str, str | None]) -> list[str]:
    model, estimate, chosen = selection.models[m], selection.estimate, list(selection.chosen_models)
    name, commit = escaped(model.name), f"`{escaped(model.ref.revision[:7])}`"
    if REPO_ID.fullmatch(model.ref.repo_id):
        url = f"https://huggingface.co/{model.ref.repo_id}"
        name, commit = f"[{name}]({url})", f"[{commit}]({url}/tree/{model.ref.revision})"
    total = float(selection.weights[chosen].sum())
    weight = float(selection.weights[m]) / total if total > 0 else 1 / len(chosen)
    accuracy = MISSING if estimate is None else estimate.text(m)
    return [
        name, commit, f"{weight:.2f}", accuracy, f"{model.cost.parameters / 1e6:.1f} M", gigaflops(model.cost.gflops),
        escaped(licenses.get(model.ref.repo_id) or "unknown"),
    ]  # fmt: skip
