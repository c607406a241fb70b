"""Nominating models made for a domain or language."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from mll_hf.matching.datasets import KnownDataset, Recognized, recognize
from mll_hf.models.domains import domains_of
from mll_hf.models.language import language_of, mixed_names
from mll_hf.models.specialists import language_figures, nominate, nomination_notes

LISTS = Path(__file__).resolve().parents[2] / "scripts" / "benchmark" / "data"
SKIN = ("melanoma", "nevus", "basal cell carcinoma")


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("nomination_lists", 19),
        ("nomination_lists_later", 31),
        ("nomination_lists_third", 48),
        ("nomination_lists_fourth", 46),
        ("nomination_lists_fifth", 75),
        ("nomination_lists_sixth", 38),
        ("nomination_lists_eighth", 13),
        ("nomination_lists_ninth", 4),
    ],
)
def test_lists_get_their_domain_and_language(name, least):
    right: Counter[str] = Counter()
    with (LISTS / f"{name}.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            classes = row["classes"].split("|")
            expected = (row["expected_domain"],) if row["expected_domain"] else ()
            domains = domains_of(classes, dataset=recognize(classes))
            found = domains[:1] == expected and language_of(classes) == row["expected_language"]
            assert found or row["kind"] != "everyday", f"{row['id']}: {nominate(classes)[:1]}"
            right[row["kind"]] += found
    assert right["domain"] + right["language"] >= least


def test_a_specialist_is_recommended_by_figures_beside_general_models():
    first, *others = nominate(SKIN)
    assert (first.model.name, first.claim, first.sets) == ("redlessone/DermLIP_ViT-B-16", "dermatology", 7)
    assert first.recommended
    assert first.gain == pytest.approx(0.277, abs=0.0005)  # over OpenAI's ViT-L/14
    by_name = {nominee.model.name: nominee for nominee in others}
    pickle = by_name["microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"]
    gated = by_name["google/medsiglip-448"]
    assert not pickle.recommended
    assert not gated.recommended
    assert pickle.obstacle == "its pickle must be converted to safetensors"
    assert gated.obstacle == "you must accept its conditions on https://huggingface.co/google/medsiglip-448"
    assert by_name["redlessone/DermFM-Zero"].obstacle == "whether it loads without code of its own was not checked"
    # published below general models, or not at all: named only
    (trove,) = [n for n in nominate(["Danaus plexippus", "Papilio machaon"]) if n.model.name == "BGLab/BioTrove-CLIP"]
    assert trove.gain < 0
    assert not trove.recommended
    assert not any(nominee.recommended for nominee in nominate(["pneumonia", "pleural effusion"]))


def test_the_users_words_and_names_of_one_branch_count():
    assert domains_of(["cat", "dog"]) == ()
    assert domains_of(["roof", "road"], domain="satellite image") == ("remote sensing",)
    assert domains_of(["a", "b"], task="chest X-ray triage") == ("radiology",)
    places = ["airport", "beach", "bridge", "desert", "park", "port"]
    assert domains_of(places) == ()
    remote = KnownDataset("whu-rs19", "WHU-RS19", "", (), "remote sensing")
    assert domains_of(places, dataset=Recognized((remote,), 6, 1, 1)) == ("remote sensing",)
    assert domains_of(["oak", "maple", "ash"]) == ("species",)
    assert domains_of(["oak", "maple", "table"]) == ()
    assert domains_of(["peacock", "red admiral", "small tortoiseshell", "brimstone"]) == ("species",)
    assert domains_of(["plush owl", "plush penguin"]) == domains_of(["fox", "raccoon", "deer"]) == ()
    assert domains_of(["backpack", "vase"]) == ()  # one of two
    assert domains_of(["Gastritis", "nephritis", "nostalgia"]) == ("medicine",)
    assert domains_of(["vest", "no vest", "hat", "no hat"]) == ()  # whether they are worn


def test_models_of_a_language_are_ranked_by_its_table():
    nominees = nominate(["Hund", "Katze", "Pferd", "Kuh"])
    assert nominees[0].model.name == "ViT-B-16-SigLIP-i18n-256/webli"
    assert (nominees[0].claim, nominees[0].gain, nominees[0].recommended) == ("de", None, True)
    assert nominees[0].accuracy == language_figures("de")["ViT-B-16-SigLIP-i18n-256/webli"]
    assert nominate(["Hund", "Katze"], language="en") == ()
    assert language_of(["Hund", "Katze"]) == "de"  # although two names may be Basque, too
    assert language_of(["dog", "cat", "кошка", "корова"]) == "en"  # a note says that the scripts differ
    assert language_of(["dog", "кошка", "корова"]) == "ru"
    for classes in (["Bulgaria", "Iraq", "Belgium"], ["Quercus", "Larix", "Fagus"], ["Fokker 100", "BAE-125", "C-47"]):
        assert language_of(classes) == "en"
    swahili = nominate(["mbwa", "paka", "farasi", "ng'ombe"])
    assert swahili[0].model.name == "nllb-clip-large/v1"
    unknown = nominate(["ਕੁੱਤਾ", "ਬਿੱਲੀ"])  # Punjabi, without figures
    assert (unknown[0].claim, unknown[0].recommended) == ("", True)
    assert {"Bingsu/clip-vit-base-patch32-ko"} == {
        n.model.name for n in nominate(["고양이", "개"]) if n.model.name == "Bingsu/clip-vit-base-patch32-ko"
    }


@pytest.mark.parametrize(
    ("classes", "note"),
    [
        (["Hund", "Katze", "horse"], "'horse': English, unlike most names; use one language for all."),
        (["Hund", "Katze", "Hammer"], ""),  # German, too
        (["dog", "кошка", "корова"], ""),  # a note says that the scripts differ
        (
            ["Danaus plexippus", "cabbage white"],
            "'Danaus plexippus': scientific among common names; use one kind for all.",
        ),
        (["Danaus plexippus", "Esox lucius", "other"], ""),
    ],
)
def test_names_of_another_language_or_kind_are_noted(classes, note):
    assert mixed_names(classes, language_of(classes)) == ((note,) if note else ())


def test_notes_say_what_is_published_and_what_stands_in_the_way():
    assert nomination_notes(nominate(["cat", "dog"])) == ()
    assert nomination_notes(nominate(SKIN)) == (
        "Dermatology: redlessone/DermLIP_ViT-B-16 (150 M parameters) is made for this, as 5 others are; on 7 published "
        "data sets it was 28 points better than general models, with an accuracy of 25 to 72 %. 64 of your images "
        "would tell which is better. redlessone/DermFM-Zero: on 7 published data sets it was 41 points better than "
        "general models, with an accuracy of 44 to 88 %, but whether it loads without code of its own was not checked.",
    )
    (note,) = nomination_notes(nominate(["baseball field", "viaduct", "storage tank", "harbor"]))
    assert note.startswith("Remote sensing: lcybuaa/Git-RSCLIP is made for this, as 14 others are; it has no figures")
    assert note.endswith(
        "RemoteCLIP/ViT-B-32: on one published data set it was 12 points better than general models, but its pickle "
        "must be converted to safetensors, and it needs a config."
    )
    (note,) = nomination_notes(nominate(["猫", "犬", "ねずみ"]))
    assert note == (
        "Class names are not English, but Japanese: timm/ViT-B-16-SigLIP-i18n-256 (371 M parameters) has the best "
        "published accuracy with Japanese names of the models that load as they are."
    )


@pytest.mark.parametrize(
    "classes",
    [[], [""], ["1", "2"], ["😀", "😢"], ["a", "b"], ["😀 happy", "😢 sad"], [f"class {n}" for n in range(2000)],
     ["rust " * 100, "dent " * 100]],
)  # fmt: skip
def test_odd_lists_nominate_nothing(classes):
    assert nominate(classes) == ()
