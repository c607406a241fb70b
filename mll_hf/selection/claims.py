"""What labels of publishers whom the user has not named would change. They are not ranked."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mll_hf.hub.trust import claims_text, ranked_and_claimed
from mll_hf.labels.join import join_labels
from mll_hf.selection.select import select
from mll_hf.selection.strategies import STRATEGIES
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from mll_hf.labels.store import LabelStore
    from mll_hf.selection.candidates import Candidates
    from mll_hf.selection.config import SelectionConfig

_log = logging.getLogger(__name__)


def mention_claims(source: LabelStore, candidates: Candidates, config: SelectionConfig) -> None:
    """Log what is claimed, by whom, and which of these models would be chosen if the claims were ranked.

    Only claims on the graphs and probe images of ranked labels compare with these.
    """
    if not (claimed := ranked_and_claimed(source)[1]):
        return
    graphs, text = candidates.labels.union.graphs, claims_text(source, claimed)
    ranked = [label for row in candidates.labels.labels for label in row if label]
    keys = {label.key for label in ranked}
    comparable = [label for label in claimed if label.key in keys]
    if comparable and not STRATEGIES[config.strategy].needs_rivals:
        joined = join_labels([*ranked, *comparable], graphs, reference=graphs[0].digest)
        selection = select(replace(candidates, labels=joined, embeddings=()), config)
        ids = {label.model.repo_id for label in comparable}
        first = [id for m in selection.chosen_models if (id := selection.models[m].ref.repo_id) in ids]
        text += f"; with them, {abridged(first, 3) if first else 'none of these'} would be chosen"
    _log.warning("%s", text)
