"""Write the embeddings that the package ships: all texts of the published graph, embedded by the default encoder.

    python scripts/build_embeddings.py

The file is mll_hf/matching/data/embeddings.safetensors; it stays as it is if embeddings differ by no more than the
rounding of another processor. Takes half a minute; the encoder comes with the extra 'offline'.
"""

from __future__ import annotations

import sys

import numpy as np
from safetensors.numpy import load_file, save

from command_line import script_parser
from mll_hf.matching.concept_index import concept_texts
from mll_hf.matching.text_encoder import SHIPPED, DefaultEncoder, text_key
from mll_hf.models.published import published_graph
from mll_hf.utils.files import write_atomically


def main() -> int:
    """Run the script; returns the exit status."""
    script_parser(str(__doc__)).parse_args()
    encoder, texts = DefaultEncoder(), list(dict.fromkeys(concept_texts(published_graph())))
    rows = encoder.encode(texts)
    keys = np.frombuffer(b"".join(text_key(encoder.id, text)[:8] for text in texts), "<u8")
    rounded = np.rint(rows * (127 / np.abs(rows).max(axis=1, keepdims=True))).astype(np.int8)
    order = np.argsort(keys)
    tensors = {"keys": keys[order], "vectors": rounded[order]}
    if SHIPPED.exists() and _same(load_file(SHIPPED), tensors):
        print("nothing changed")
    else:
        write_atomically(SHIPPED, save(tensors))
    return 0


def _same(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> bool:
    return np.array_equal(old["keys"], new["keys"]) and np.abs(old["vectors"] - new["vectors"].astype(int)).max() <= 1


if __name__ == "__main__":
    sys.exit(main())
