"""Whose labels are ranked: those of publishers whom the user has named, and labels that the user has verified.

A label is a claim. Whoever names a folder, a collection or an owner takes responsibility for what it claims; labels of
everyone else are listed apart. A label that ``labels verify`` has confirmed on this machine is ranked as well.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from mll_hf.labels.file_format import label_to_bytes
from mll_hf.utils.files import asset_path, write_atomically
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.labels.label import Label
    from mll_hf.labels.store import LabelStore

TRUST_VARIABLE = "MLL_TRUST"
_FOLDER = "verified"


def named_owners(trust: Sequence[str] = ()) -> frozenset[str]:
    """Users and organizations that the user names, here or in ``$MLL_TRUST``, in lower case."""
    listed = [*trust, *os.environ.get(TRUST_VARIABLE, "").split(",")]
    return frozenset(name.strip().lower() for name in listed if name.strip())


def remember_verified(label: Label) -> None:
    """Rank a label from now on; any other content is another label. A StorageError if that cannot be written."""
    write_atomically(asset_path(_FOLDER, _content_id(label)), label.model.repo_id.encode())


def verified_repos() -> frozenset[str]:
    """Models with a label that was verified on this machine."""
    with suppress(OSError):
        return frozenset(file.read_text(encoding="utf-8", errors="replace") for file in asset_path(_FOLDER).iterdir())
    return frozenset()


def ranked_and_claimed(source: LabelStore) -> tuple[tuple[Label, ...], tuple[Label, ...]]:
    """The labels of a source that are ranked, and those that are only listed."""
    ranked: list[Label] = []
    claimed: list[Label] = []
    for label in source.labels():
        is_ranked = source.origin_of(label).is_named or asset_path(_FOLDER, _content_id(label)).exists()
        (ranked if is_ranked else claimed).append(label)
    return tuple(ranked), tuple(claimed)


def claims_text(source: LabelStore, claimed: Sequence[Label]) -> str:
    """Who claims what, and how to rank it: one line."""
    best = sorted(claimed, key=lambda label: (-label.mean_recall, label.model.repo_id))
    claims = [f"{label.model.repo_id} (recall {label.mean_recall:.3f} on {label.graph_name[:40]})" for label in best]
    owners = sorted({source.origin_of(label).publisher or "" for label in claimed})
    return (
        f"not ranked, since you have not named the publishers ({abridged(owners, 3)}): {abridged(claims, 3)}; to rank "
        f"them: --trust {owners[0]}; to check one: mll-hf labels verify {best[0].model.repo_id} --labels hub"
    )


def _content_id(label: Label) -> str:
    return hashlib.sha256(label_to_bytes(label)).hexdigest()
