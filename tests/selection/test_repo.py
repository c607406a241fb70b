"""A selection as a repo: saved, pushed, read back, and checked before it is used."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import constants

from hub_worlds import READER, clock  # noqa: F401
from mll_hf.errors import CardError, HubError, InputError, MLLError
from mll_hf.labels.label import LOCAL_PREFIX, UNPINNED
from mll_hf.matching.prompts import templates_for
from mll_hf.selection import Selection, SelectionConfig, select
from mll_hf.selection.repo import SELECTION_FILE, check_licenses
from selection_worlds import random_candidates

REPO = "alice/classifier"


pytestmark = pytest.mark.usefixtures("clock")


def make_selection(hub=None, licenses=("mit", "mit"), **fields):
    """A selection of two of four models; with a Hub, they are on it at its pinned commits, under these licenses."""
    candidates = random_candidates(n_models=4, n_classes=3, domain="sketch")
    selection = select(candidates, SelectionConfig(k=2))
    models = list(selection.models)
    for m, license in zip(selection.chosen_models, licenses, strict=True) if hub else ():
        card = f"---\nlicense: {license}\n---\n" if license else "# no license\n"
        revision = hub.put("model", models[m].ref.repo_id, {"README.md": card.encode(), "config.json": b"{}"})
        models[m] = replace(models[m], ref=replace(models[m].ref, revision=revision))
    return replace(selection, models=tuple(models), **fields)


def ids_of(selection):
    return [selection.models[m].ref.repo_id for m in selection.chosen_models]


def card_of(hub, repo_id=REPO):
    """Metadata and text of the README on the Hub."""
    repo = hub.repos["model", repo_id]
    _, front, text = hub.content(repo.files["README.md"]).decode().split("---\n", 2)
    return yaml.safe_load(front), text


def in_another_cache(monkeypatch, tmp_path):
    """As with another HF_HOME."""
    for name in ("HF_HUB_CACHE", "HF_ASSETS_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / name))


# --- there and back ---------------------------------------------------------------------------------------------------


def test_pushed_and_read_elsewhere(hub, monkeypatch, tmp_path):
    selection = make_selection(hub)
    published = selection.push_to_hub(REPO)
    assert (published.changed, published.pull_request) == (True, None)
    in_another_cache(monkeypatch, tmp_path)
    hub.requests.clear()
    back = Selection.from_pretrained(REPO)
    # the prompts are written out, so they stay what they are
    assert back == replace(selection, templates=templates_for("sketch"))
    assert back.prompt_templates == selection.prompt_templates
    assert not any("config.json" in request for request in hub.requests)  # nothing counts as a download of a model
    assert Selection.from_pretrained(f"{REPO}@{published.revision}") == back
    assert Selection.from_pretrained(REPO, revision=published.revision) == back
    monkeypatch.setattr(hub, "down", True)
    assert Selection.from_pretrained(REPO) == back  # from the cache
    with pytest.raises(HubError, match="alice/other: the Hub answered with status 503; try later"):
        Selection.from_pretrained("alice/other")


def test_saved_in_a_folder(hub, tmp_path, monkeypatch, caplog):
    selection = make_selection(hub)
    selection.save_pretrained(tmp_path / "here")
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"README.md", SELECTION_FILE}
    back = Selection.from_pretrained(tmp_path / "here")
    assert back == Selection.from_pretrained(str(tmp_path / "here" / SELECTION_FILE))
    assert back.models == selection.models
    selection.save_pretrained(tmp_path / "it's")
    assert f'classifier = pipeline("{tmp_path}/it\'s")' in (tmp_path / "it's" / "README.md").read_text()
    readme = tmp_path / "here" / "README.md"
    assert "license: mit" in readme.read_text()
    readme.write_text(readme.read_text().replace("---\n", "---\nlanguage: [no]  # Norwegian\n", 1) + "Mine.\n")
    monkeypatch.setattr(hub, "down", True)
    selection.save_pretrained(tmp_path / "here")
    assert "licenses are missing from the card" in caplog.text
    assert "license: unknown" in readme.read_text()
    assert readme.read_text().startswith("---\nlanguage: [no]  # Norwegian\n")
    assert readme.read_text().endswith("Mine.\n")
    readme.write_bytes(b"\xff\xfe")
    with pytest.raises(CardError, match=r"README\.md cannot be read"):
        selection.save_pretrained(tmp_path / "here")
    readme.write_text("---\n- a list\n---\n")
    with pytest.raises(CardError, match="not a mapping"):
        selection.save_pretrained(tmp_path / "here")


# --- the card ---------------------------------------------------------------------------------------------------------


def test_what_the_card_says(hub):
    selection = make_selection(hub, task="naming <things>")
    selection.push_to_hub(REPO)
    metadata, text = card_of(hub)
    assert metadata == {
        "base_model": ids_of(selection),
        "library_name": "mll-hf",
        "license": "mit",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["mll-selection"],
    }
    assert 'classifier = pipeline("alice/classifier")' in text
    assert "class 0, class 1, class 2." in text
    assert len(selection.answer_lines) == 2
    plain = text.replace("&#42;", "*")
    for line in selection.answer_lines:
        assert f"- {line}" in plain
    for m in selection.chosen_models:
        model = selection.models[m]
        (row,) = [line for line in text.splitlines() if line.startswith(f"| [{model.ref.repo_id}]")]
        assert f"/{model.ref.repo_id}/tree/{model.ref.revision})" in row
        assert f" {selection.estimate.text(m)} " in row
        assert row.endswith("| mit |")
    assert "images: sketch; task: naming &#60;things&#62;" in text


def test_the_license_of_the_card(hub):
    for licenses, expected, name in (
        (("mit", "mit"), "mit", None),
        (("mit", "cc-by-nc-4.0"), "other", "licenses-of-its-models"),
        (("mit", None), "unknown", None),
    ):
        make_selection(hub, licenses).push_to_hub(REPO)  # whatever was said before
        metadata, text = card_of(hub)
        assert (metadata["license"], metadata.get("license_name")) == (expected, name)
        assert f"| {licenses[1] or 'unknown'} |" in text


def test_names_of_strangers_in_the_card(hub):
    hostile = ("</script><b>", "a|b](http://x)", "--- # {x: 1}\\")
    make_selection(hub, classes=hostile).push_to_hub(REPO)
    _, text = card_of(hub)
    assert "<b>" not in text
    assert "](http://x" not in text
    assert Selection.from_pretrained(REPO).classes == hostile


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_model_repo_is_not_overwritten(hub, api):
    selection = make_selection(hub)
    hub.put("model", "alice/model", {"README.md": b"# Mine\n", "model.safetensors": b"weights"})
    before = hub.repos["model", "alice/model"].refs["main"]
    with pytest.raises(InputError, match=r"alice/model is a model of another kind \(model\.safetensors\)"):
        selection.push_to_hub("alice/model")
    assert hub.repos["model", "alice/model"].refs["main"] == before
    with pytest.raises(InputError, match="not of the form org/name"):
        selection.push_to_hub("classifier")
    selection.push_to_hub(REPO, private=True)
    assert api.model_info(REPO).private
    api.update_repo_settings(REPO, private=False)
    with pytest.raises(InputError, match="exists already and is public"):
        selection.push_to_hub(REPO, private=True)


def test_a_public_selection_names_no_private_models(hub):
    selection = make_selection(hub)
    secret = ids_of(selection)[0]
    hub.repos["model", secret].private = True
    hub.orgs[secret.partition("/")[0]] = {"alice": "write"}
    with pytest.raises(InputError, match=f"private models: {secret}"):
        selection.push_to_hub(REPO)
    assert ("model", REPO) not in hub.repos
    selection.push_to_hub(REPO, private=True)
    selection.push_to_hub(REPO)  # which is private


@pytest.mark.parametrize(
    ("place", "field", "value", "said"),
    [
        (0, "repo_id", f"{LOCAL_PREFIX}/home/alice/model", r"local models \(model\)"),
        (3, "repo_id", f"{LOCAL_PREFIX}/home/alice/model", r"local models \(model\)"),  # not even chosen
        (0, "revision", UNPINNED, r"not pinned to a commit on the Hub \(m0\d\)"),
    ],
)
def test_what_others_cannot_use_is_not_pushed(hub, place, field, value, said):
    selection = make_selection(hub)
    models = list(selection.models)
    models[place] = replace(models[place], ref=replace(models[place].ref, **{field: value}))
    with pytest.raises(InputError, match=said):
        replace(selection, models=tuple(models)).push_to_hub(REPO)
    assert ("model", REPO) not in hub.repos


def test_what_others_cannot_use_is_not_read_from_the_hub(hub):
    document = make_selection(hub).to_json()
    document["models"][0]["id"] = f"{LOCAL_PREFIX}/etc"
    document["chosen"] = {name: [f"{LOCAL_PREFIX}/etc"] for name in document["chosen"]}
    hub.put("model", REPO, {SELECTION_FILE: json.dumps(document).encode()})
    with pytest.raises(InputError, match=r"alice/classifier: models are not pinned to a commit on the Hub \(etc\)"):
        Selection.from_pretrained(REPO)


HOSTILE = [b"", b"[]", b"[" * 100_000, b'{"classes": ["a"]}', b"\xff\xfe\x00", b'{"classes": ' + b"9" * 10_000 + b"}"]


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: str(content[:12]))
def test_what_is_no_selection_is_one_line(hub, tmp_path, content):
    hub.put("model", REPO, {SELECTION_FILE: content})
    (tmp_path / "choice.json").write_bytes(content)
    for location in (REPO, tmp_path / "choice.json"):
        with pytest.raises(InputError, match="this is not a selection") as failure:
            Selection.from_pretrained(location)
        assert re.fullmatch(rf"{location}: this is not a selection.*; make one with: mll-hf .*", str(failure.value))
        assert "Error" not in str(failure.value)


def test_too_large(hub, monkeypatch, tmp_path):
    selection = make_selection(hub)
    selection.push_to_hub(REPO)
    selection.save_pretrained(tmp_path)
    monkeypatch.setattr("mll_hf.selection.repo._MAX_BYTES", 100)
    with pytest.raises(HubError, match="larger than 0 MB and was not downloaded"):
        Selection.from_pretrained(REPO)
    with pytest.raises(InputError, match="over the limit"):
        Selection.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="over the limit"):
        selection.push_to_hub(REPO)


# --- licenses ---------------------------------------------------------------------------------------------------------


def test_licenses_that_the_user_may_not_use(hub):
    selection = make_selection(hub, ("cc-by-nc-4.0", None))
    first, second = ids_of(selection)
    with pytest.raises(InputError) as failure:
        check_licenses(selection, ["MIT ", "apache-2.0"])
    assert str(failure.value) == (
        f"models have licenses other than apache-2.0, mit: {first} (cc-by-nc-4.0), {second} (unknown); "
        "allow these too, or select with these licenses"
    )
    hub.put("model", second, {"README.md": b"---\nlicense: MIT\n---\n"})
    check_licenses(selection, ["mit", "cc-by-nc-4.0"])
    hub.down = True
    with pytest.raises(MLLError, match="the Hub"):
        check_licenses(selection, ["mit", "cc-by-nc-4.0"])
