"""Building the table of known models."""

import shutil

import pytest

from known_models import add, build, domain_words
from known_models.figures import rows
from mll_hf.models import known
from mll_hf.models.known import known_models, usable_models
from mll_hf.models.published import figures

DATA, PAGES = build.DATA, build.LOOKED_UP / "pages.csv"


@pytest.mark.skipif(not domain_words.DEBIAN.is_dir(), reason="needs Debian's wordnet-base to rebuild domain_words.csv")
def test_words_of_domains_are_rebuilt(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "DATA", tmp_path)
    assert domain_words.main([]) == 0
    assert (tmp_path / "domain_words.csv").read_bytes() == (DATA / "domain_words.csv").read_bytes()


FIGURES = {
    "imagenet": "0.701", "parameters": "151M", "image-gflops": "8.8", "text-gflops": "5.9", "download": "605M",
    "license": "mit", "page": "https://huggingface.co/org/new",
}  # fmt: skip


def words(hub_id, **changed):
    return [hub_id, *(word for name, value in (FIGURES | changed).items() for word in (f"--{name}", value))]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Copies of the tables, which the scripts may write."""
    for path in (DATA / "known_models.csv", PAGES, PAGES.with_name("counted.csv")):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(build, "LOOKED_UP", tmp_path)
    monkeypatch.setattr(build, "DATA", tmp_path)
    monkeypatch.setattr(known, "data_file", lambda name: (tmp_path / name).read_text(encoding="utf-8"))
    return tmp_path


def test_adding_a_model_is_one_command(data, capsys):
    before = (data / "known_models.csv").read_bytes()
    assert build.main([]) == 0
    assert (data / "known_models.csv").read_bytes() == before
    assert add.main([*words("org/new"), "--twin", "org/twin"]) == 0
    assert capsys.readouterr().out == "nothing changed\nknown_models.csv: changed\n"
    (new,) = [model for model in known_models.__wrapped__() if model.hub_id == "org/new"]
    assert (new.name, new.twin, new.license, new.imagenet) == ("org/new", "org/twin", "mit", 0.701)
    assert (new.cost.parameters, new.cost.gflops, new.download_bytes) == (151_000_000, 8.8, 605_000_000)
    added = (data / "known_models.csv").read_bytes()
    assert add.main([*words("org/new"), "--twin", "org/twin"]) == 0  # again
    assert (data / "known_models.csv").read_bytes() == added
    assert add.main(words("org/new", imagenet="0.71")) == 0
    assert b",0.71," in (data / "known_models.csv").read_bytes()
    shutil.copy(PAGES, data)
    assert build.main([]) == 0  # what is no longer on a page goes
    assert (data / "known_models.csv").read_bytes() == before


def test_a_specialist_needs_no_figure_of_imagenet(data):
    without = [word for word in words("org/skin") if word not in ("--imagenet", FIGURES["imagenet"])]
    assert (
        add.main([*without, "--domain", "dermatology", "--domain", "medicine", "--prompt", "a skin image of {}"]) == 0
    )
    (new,) = [model for model in known_models.__wrapped__() if model.hub_id == "org/skin"]
    assert (new.domains, new.languages, new.imagenet) == (("dermatology", "medicine"), ("en",), None)
    assert ",a skin image of {}," in (data / "known_models.csv").read_text()


def test_figures_of_a_table_are_not_replaced(data):
    known_already = usable_models()[0].hub_id
    assert add.main(words(known_already)) == 0
    assert (data / "known_models.csv").read_bytes() == (DATA / "known_models.csv").read_bytes()


def test_impossible_figures_are_refused(data, capsys):
    with pytest.raises(SystemExit):
        add.main(words("org/new", imagenet="70.1"))
    assert "70.1 is not between 0 and 1" in capsys.readouterr().err
    assert (data / "pages.csv").read_bytes() == PAGES.read_bytes()


def test_no_figures_of_tables_without_a_license():
    sources = {row["id"] for row in build.read(DATA / "sources.csv")}
    named = {row["source"] for name in ("accuracies", "stated_figures") for row in rows(f"{name}.csv")}
    named |= {id for row in build.read(DATA / "known_models.csv") for id in row["source"].split()}
    named |= {figure.source for figure in figures()}
    assert named <= sources
    assert not named & {"ostb", "lovm", "mll_hub49"}
