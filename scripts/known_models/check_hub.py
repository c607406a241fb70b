"""Compare what the table of known models says about repos with the Hub: weights, gate and license."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from mll_hf.hub.connection import retried
from mll_hf.models.known import known_models
from mll_hf.utils.tables import markdown_table
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from mll_hf.models.known import KnownModel

COLUMNS = ("model", "fact", "table", "Hub")


def report(api: HfApi) -> tuple[str, bool]:
    """A table of the facts that differ or were not checked yet, in Markdown, and whether none differs."""
    rows = [row for model in known_models() if model.hub_id for row in differences(model, api)]
    wrong = sum(row[2] not in ("not checked", "") for row in rows)
    summary = f"{len(rows)} facts to correct: {wrong} differ, {len(rows) - wrong} were not checked."
    return "\n".join([summary, "", *markdown_table(COLUMNS, rows)]) if rows else summary, not wrong


def differences(model: KnownModel, api: HfApi) -> list[list[str]]:
    """The facts about one model that the Hub states otherwise: rows of `COLUMNS`."""
    repo_id, _, reference = model.spec.partition("@")
    try:
        info = retried(lambda: api.model_info(repo_id, revision=reference or None))
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return [[model.name, "exists", "yes", "no"]]
    except HfHubHTTPError as error:
        return [[model.name, "exists", "yes", one_line(error)]]
    names = [file.rfilename for file in info.siblings or ()]
    safe = any("/" not in name and name.endswith(".safetensors") for name in names)
    weights = (f"safetensors at {reference}" if reference else "safetensors") if safe else "pickle only"
    stated = {True: "yes", False: "no", None: ""}[model.gated]
    license = str((info.card_data or {}).get("license") or "")
    found = [
        ("weights", model.weights, weights),
        ("gated", stated, "yes" if info.gated else "no"),
        ("license", model.license or "", license if license != "other" else model.license or ""),
    ]
    return [[model.name, fact, table, hub] for fact, table, hub in found if table != hub]
