"""Write the embeddings that the package ships: all texts of the published graph, embedded by the default encoder.

    python scripts/build_embeddings.py [--check]

The file is mll_hf/matching/data/embeddings.safetensors. Prints the effect of rounding to bytes on the matches of all
class names with published recall. With --check nothing is written, and the exit status is 1 if embeddings are missing
or differ by more than the rounding of another processor. Takes half a minute; the encoder comes with the extra
'offline'.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save

from command_line import script_parser
from known_models.figures import class_recalls
from mll_hf.matching.concept_index import COVERED, ConceptIndex, concept_texts
from mll_hf.matching.describe import from_templates
from mll_hf.matching.text_encoder import SHIPPED, CachedEncoder, DefaultEncoder, pack
from mll_hf.models.published import published_graph
from mll_hf.utils.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> int:
    """Run the script; returns the exit status (0 done or unchanged, 1 would change)."""
    parser = script_parser(str(__doc__))
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if anything would change")
    check = parser.parse_args().check
    encoder, texts = DefaultEncoder(), list(dict.fromkeys(concept_texts(published_graph())))
    exact = dict(zip(texts, encoder.encode(texts), strict=True))
    tensors = pack(encoder.id, exact)
    if same := SHIPPED.exists() and _same(load_file(SHIPPED), tensors):
        print("nothing changed")
    elif not check:
        write_atomically(SHIPPED, save(tensors))
    if same or not check:
        print(effect_of_rounding(exact))
    return int(check and not same)


def _same(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> bool:
    return np.array_equal(old["keys"], new["keys"]) and np.abs(old["vectors"] - new["vectors"].astype(int)).max() <= 1


class _Exact:
    """An encoder with some unrounded embeddings, and another encoder for the rest."""

    def __init__(self, known: dict[str, np.ndarray], other: CachedEncoder) -> None:
        self.id, self._known, self._other = other.id, known, other

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._known.get(t, v) for t, v in zip(texts, self._other.encode(texts), strict=True)])


def effect_of_rounding(exact: dict[str, np.ndarray]) -> str:
    """The differences that rounding makes to the matches of the class names with published recall."""
    names, graph = sorted(set(class_recalls().classes)), published_graph()
    descriptions = from_templates(names, graph)
    with tempfile.TemporaryDirectory() as folder:
        encoder = CachedEncoder(DefaultEncoder(), Path(folder) / "embeddings.sqlite")
        indices = [ConceptIndex.build(graph, e) for e in (encoder, _Exact(exact, encoder))]
        logits = [index.logits(descriptions) for index in indices]
        match, right = (index.match(descriptions) for index in indices)
    changed = match.concepts[:, 0] != right.concepts[:, 0]
    covered = right.coverage >= COVERED
    return (
        f"{len(names):,} class names, {covered.sum():,} of them covered; rounding changes logits by at most "
        f"{np.abs(logits[0] - logits[1]).max():.3f}, coverage by {np.abs(match.coverage - right.coverage).max():.3f}; "
        f"{(changed & covered).sum()} covered names and {(changed & ~covered).sum()} others get a different best "
        f"concept, the latter with a coverage of at most {np.max(right.coverage[changed], initial=0):.4f}"
    )


if __name__ == "__main__":
    sys.exit(main())
