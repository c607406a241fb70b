"""Files of heads: there and back, and what is refused in those of strangers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load, save
from test_repo import REPO, card_of, in_another_cache, make_selection

from hub_worlds import clock  # noqa: F401
from mll_hf.errors import HubError, InputError
from mll_hf.labels.label import ModelRef
from mll_hf.selection import Head, Selection
from mll_hf.selection.head import HEADS_FILE, heads_from_bytes, heads_to_bytes, max_heads_bytes
from mll_hf.selection.repo import heads_key, keep_heads, zero_shot_heads

pytestmark = pytest.mark.usefixtures("clock")
MODELS = (ModelRef("org/a", "1" * 40, "open_clip", "a" * 64), ModelRef("org/b", "2" * 40, "transformers"))
CLASSES = ("cat", 'a "dog"', "ネコ")


def random_heads(n_models=2, n_classes=3, is_fitted=True):
    rng = np.random.default_rng(0)
    sizes = [(n_classes, 4 + m) for m in range(n_models)]
    return tuple(
        Head(rng.normal(size=size).astype(np.float32), rng.normal(size=size[0]).astype(np.float32), is_fitted)
        for size in sizes
    )


def edited(blob, tensors=None, **metadata):
    """A file of heads with other tensors and metadata."""
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    known = json.loads(header["__metadata__"]["mll"]) | metadata
    return save(load(blob) | (tensors or {}), metadata={"mll": json.dumps(known)})


BLOB = heads_to_bytes(random_heads(), MODELS, CLASSES)


def test_heads_are_read_as_written_whatever_the_commit_of_the_same_model():
    assert len(BLOB) < max_heads_bytes(2, 3)
    assert heads_from_bytes(BLOB, MODELS, CLASSES) == random_heads()
    moved = (replace(MODELS[0], repo_id="org/renamed", revision="3" * 40), MODELS[1])
    assert heads_from_bytes(BLOB, moved, CLASSES) == random_heads()
    unknown = (replace(MODELS[0], digest=None), MODELS[1])
    assert heads_from_bytes(BLOB, unknown, CLASSES) == random_heads()


@pytest.mark.parametrize(
    ("models", "classes", "said"),
    [
        (
            (replace(MODELS[0], digest="b" * 64), MODELS[1]),
            CLASSES,
            "a head is of another model than a at 1111111111",
        ),
        (
            (MODELS[0], replace(MODELS[1], revision="3" * 40)),
            CLASSES,
            "a head is of another model than b at 33333333",
        ),
        (MODELS[::-1], CLASSES, "a head is of another model than b at"),
        (MODELS[:1], CLASSES, "it has 2 heads for 1 models"),
        (MODELS, CLASSES[::-1], "its heads are for other classes"),
    ],
)
def test_heads_of_another_selection(models, classes, said):
    with pytest.raises(InputError, match=said):
        heads_from_bytes(BLOB, models, classes)


WEIGHTS, BIAS = np.ones((3, 4), np.float32), np.ones(3, np.float32)
HOSTILE = {
    "empty": b"",
    "truncated": BLOB[:-5],
    "header": b"\xff" * 8 + BLOB,
    "nested": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "other": save({"weights": WEIGHTS}),
    "no list": edited(BLOB, models=5),
    "no entries": edited(BLOB, models=["a", "b"]),
    "no model": edited(BLOB, models=[{"repo_id": 1}, {}]),
    "shape": edited(BLOB, {"0.weights": WEIGHTS[:2]}),
    "flat": edited(BLOB, {"0.weights": BIAS}),
    "no dimensions": edited(BLOB, {"0.weights": WEIGHTS[:, :0]}),
    "many dimensions": edited(BLOB, {"0.weights": np.ones((3, 5000), np.float32)}),
    "bias": edited(BLOB, {"1.bias": BIAS[:2]}),
    "type": edited(BLOB, {"0.weights": WEIGHTS.astype(np.float64)}),
    "not finite": edited(BLOB, {"0.bias": BIAS * np.nan}),
    "huge": edited(BLOB, {"0.weights": WEIGHTS * 1e30}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_one_line(hub, tmp_path, content):
    with pytest.raises(InputError, match="not a readable file of heads"):
        heads_from_bytes(content, MODELS, CLASSES)
    selection = make_selection(hub)
    selection.push_to_hub(REPO)
    selection.save_pretrained(tmp_path)
    hub.put("model", REPO, {HEADS_FILE: content})
    (tmp_path / HEADS_FILE).write_bytes(content)
    for location in (REPO, tmp_path):
        with pytest.raises(InputError) as failure:
            Selection.from_pretrained(location)
        assert str(failure.value).startswith(f"heads.safetensors of {location}: ")
        assert "\n" not in str(failure.value)


def test_a_file_that_is_too_large_is_not_read(hub, tmp_path):
    selection = make_selection(hub)
    selection.push_to_hub(REPO)
    selection.save_pretrained(tmp_path)
    large = bytes(max_heads_bytes(2, 3) + 1)
    hub.put("model", REPO, {HEADS_FILE: large})
    (tmp_path / HEADS_FILE).write_bytes(large)
    with pytest.raises(HubError, match=r"heads\.safetensors is larger than 1 MB and was not downloaded"):
        Selection.from_pretrained(REPO)
    with pytest.raises(InputError, match="over the limit of 1 MB"):
        Selection.from_pretrained(tmp_path)


def test_heads_are_pushed_and_read_elsewhere_and_go_with_the_selection(hub, monkeypatch, tmp_path):
    plain = make_selection(hub)
    fitted = replace(plain, heads=random_heads(), templates=plain.prompt_templates)
    fitted.push_to_hub(REPO)
    fitted.save_pretrained(tmp_path / "choice")
    assert "reveal" in card_of(hub)[1]
    in_another_cache(monkeypatch, tmp_path)
    assert Selection.from_pretrained(REPO) == Selection.from_pretrained(tmp_path / "choice") == fitted
    plain.push_to_hub(REPO)  # without heads: those of before would be of other images
    plain.save_pretrained(tmp_path / "choice")
    assert "reveal" not in card_of(hub)[1]
    assert Selection.from_pretrained(REPO).heads == Selection.from_pretrained(tmp_path / "choice").heads == ()


def test_heads_from_names_are_kept_in_the_cache_and_go_with_the_selection(hub, tmp_path):
    selection, heads = make_selection(hub), random_heads(is_fitted=False)
    assert zero_shot_heads(selection) == ()
    keep_heads(selection, heads)
    assert zero_shot_heads(selection) == heads
    assert zero_shot_heads(replace(selection, templates=("so {}",))) == ()
    selection.save_pretrained(tmp_path / "new")
    assert Selection.from_pretrained(tmp_path / "new").heads == heads


def test_a_cache_that_cannot_be_written_or_is_damaged_is_no_error(hub, monkeypatch, tmp_path):
    selection, heads = make_selection(hub), random_heads()
    keep_heads(selection, heads)
    (file,) = (tmp_path.__class__(constants.HF_ASSETS_CACHE) / "mll_hf" / "heads").iterdir()
    file.write_bytes(b"damaged")
    assert zero_shot_heads(selection) == ()
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", "/proc/nowhere")
    keep_heads(selection, heads)


def test_what_decides_heads_from_names():
    selection = make_selection()
    others = [
        selection,
        replace(selection, classes=("x", "y", "z")),
        replace(selection, templates=("{}",)),
        replace(selection, models=selection.models[::-1]),
    ]
    assert len({heads_key(each) for each in others}) == len(others)
    assert heads_key(Selection.from_json(json.loads(json.dumps(selection.to_json())))) == heads_key(selection)
    hotter = (replace(selection.models[0], temperature=9.0), *selection.models[1:])
    assert heads_key(replace(selection, scores=selection.scores / 2, models=hotter)) == heads_key(selection)
