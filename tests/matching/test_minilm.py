"""The default encoder in NumPy against transformers."""

import subprocess
import sys

import numpy as np
import pytest

from mll_hf.matching import minilm
from mll_hf.matching.minilm import MiniLM
from mll_hf.matching.text_encoder import DefaultEncoder, _default_folder

NAMES = ["dog", "red bell pepper", "A340-200", "Paraguay", "croque_madame", "traffic sign (no entry)", "letter A"]
ODD = [
    "", " ", "\n\t", " dog ", "\xa0dog", "é", "e\u0301", "naïve CAFÉ", "ß", "İstanbul", "漢字かな", "мир", "العربية",
    "🙂🙂", "\0", "a\0b", "\u200b", "\ufeffdog", "ﬁ ½ ²", "[CLS] dog [SEP]", "[PAD] [MASK]",
    "##ing", "don't; do — it’s",
]  # fmt: skip
LONG = ["word " * n for n in (253, 254, 255, 400)] + ["x" * 100, "x" * 101, "a b c " * 2000]


@pytest.fixture(scope="module")
def encoder():
    return MiniLM(_default_folder())


def test_vectors_are_those_of_the_models_card(encoder):
    """By transformers: the mean of the tokens' vectors."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts, folder = [*NAMES, *ODD, *LONG], _default_folder()
    mine = encoder.encode(texts)
    assert mine.dtype == np.float32
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        tokens = [tokenizer(text, truncation=True, max_length=256, return_tensors="pt") for text in texts]
        means = [model(**of_text).last_hidden_state.mean(dim=1) for of_text in tokens]
    expected = torch.nn.functional.normalize(torch.cat(means)).numpy()
    np.testing.assert_allclose(mine, expected, atol=1e-6)


def test_what_is_cut_off_does_not_count(encoder):
    one, other, shorter = encoder.encode(["word " * 254 + "dog", "word " * 254 + "cat", "word " * 253 + "cat"])
    np.testing.assert_allclose(one, other, atol=1e-6)  # kernels of a BLAS round differently
    assert np.abs(one - shorter).max() > 1e-4


def test_a_text_is_embedded_the_same_among_others(encoder, monkeypatch):
    alone = np.concatenate([encoder.encode([name]) for name in NAMES])
    np.testing.assert_allclose(encoder.encode(NAMES), alone, atol=1e-6)
    monkeypatch.setattr(minilm, "_BATCH_PIECES", 8)  # several batches of one length
    np.testing.assert_allclose(encoder.encode(NAMES * 4), np.tile(alone, (4, 1)), atol=1e-6)
    assert DefaultEncoder().encode([]).shape[0] == 0


def test_torch_is_not_imported():
    program = (
        "import sys; from mll_hf.matching.text_encoder import DefaultEncoder\n"
        "assert DefaultEncoder().encode(['a new name']).shape == (1, 384)\n"
        "print(sorted({'torch', 'sentence_transformers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
