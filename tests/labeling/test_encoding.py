"""The log of embeddings."""

import numpy as np
import pytest

from mll_hf.labeling.encoding import EmbeddingLog


def embeddings_of(rows):
    """Unit vectors that say which image they are of."""
    angles = np.asarray(rows, np.float32)
    return np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda content: content, 6),
        (lambda content: content[:24] + bytes(24) + content[48:], 2),
        (lambda content: content[:28] + bytes(6) + content[34:], 2),
        (lambda content: content[:40], 3),
        (lambda _: b"", 0),
    ],
    ids=["nothing", "zeros", "half an embedding", "the end", "all"],
)
def test_a_log_goes_on_before_what_a_power_cut_damaged(tmp_path, damage, kept):
    log, embeddings = EmbeddingLog(tmp_path / "a.log", 3), embeddings_of(range(6))
    embeddings[1] = np.nan  # undecodable
    for part in np.split(embeddings, [2]):
        log.repair()
        log.append(part)
    log.file.write_bytes(damage(log.file.read_bytes()))  # an embedding is 12 bytes
    np.testing.assert_array_equal(log.embeddings(), embeddings[:kept])
    assert log.repair() == kept
    log.append(embeddings[kept:])
    np.testing.assert_array_equal(log.embeddings(), embeddings)
