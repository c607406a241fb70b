"""What names a model: the files that decide its outputs, not the commit or the name of its repo."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from mll_hf.labels.identity import blob_id, deciding_files, digest_of_files
from mll_hf.labels.join import join_labels
from mll_hf.labels.label import ModelRef
from worlds import make_graph, make_label

WEIGHTS = hashlib.sha256(b"weights").hexdigest()
REPO = {
    "README.md": blob_id(b"card"),
    "config.json": blob_id(b"{}"),
    "open_clip_config.json": blob_id(b'{"a": 1}'),
    "open_clip_model.safetensors": WEIGHTS,
    "model.safetensors": "f" * 64,
    "vocab.json": blob_id(b"[]"),
    "merges.txt": blob_id(b"a b"),
    "open_clip_pytorch_model.bin": "e" * 64,
}


def digest_of(repo, backend="open_clip"):
    return digest_of_files(repo, backend)


def label_of(graph, digest, **fields):
    label = make_label(graph, **fields)
    return replace(label, model=replace(label.model, digest=digest))


def test_files_that_decide_by_backend():
    settings = {"config.json", "open_clip_config.json", "vocab.json", "merges.txt"}
    assert set(deciding_files(REPO, "open_clip")) == settings | {"open_clip_model.safetensors"}
    assert set(deciding_files(REPO, "transformers")) == settings | {"model.safetensors"}
    assert deciding_files(["config.json", "pytorch_model.bin"], "transformers") == ()  # nothing that can be read
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert deciding_files([*shards, "model.safetensors.index.json"], "transformers") == tuple(shards)


@pytest.mark.parametrize(
    "files",
    [
        {"README.md": blob_id(b"card with a label"), "mll/label.safetensors": "d" * 64},  # as a push does
        {"mll/0123456789ab/label.safetensors": "d" * 64, "mll/label.rivals.safetensors": "d" * 64},
        {".gitattributes": blob_id(b"x"), "LICENSE.txt": blob_id(b"mit"), "requirements.txt": blob_id(b"numpy")},
        {"open_clip_pytorch_model.bin": "c" * 64},  # pickles are never read
        {"onnx/config.json": "c" * 40, "model.safetensors": "c" * 64},  # nor what another backend or runtime reads
    ],
)
def test_what_does_not_decide_outputs_does_not_change_the_digest(files):
    assert digest_of(REPO | files) == digest_of(REPO)


@pytest.mark.parametrize("path", ["open_clip_model.safetensors", "open_clip_config.json", "vocab.json"])
def test_what_decides_outputs_changes_the_digest(path):
    assert digest_of(REPO | {path: "0" * 64}) != digest_of(REPO)
    assert digest_of(REPO, "transformers") != digest_of(REPO)


def test_labels_join_after_a_push_and_after_a_rename():
    base, signs = make_graph(name="base"), make_graph({"stop": (), "yield": ()}, "signs")
    before, pushed = digest_of(REPO), digest_of(REPO | {"mll/label.safetensors": "d" * 64, "README.md": "1" * 40})
    first = label_of(base, before, repo_id="org/old", revision="a" * 40)
    second = label_of(signs, pushed, repo_id="org/new", revision="b" * 40)
    joined = join_labels([first, second], [base, signs])
    assert joined.labels == ((first, second),)
    assert joined.left_out == ()


def test_models_without_digest_join_by_id():
    assert ModelRef("org/a", "main", "open_clip").key == "id:org/a"
    assert ModelRef("org/a", "main", "open_clip", "a" * 64).key == "a" * 64
