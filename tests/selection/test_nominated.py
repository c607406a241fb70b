"""Models made for the domain or language of the classes as candidates, and the best value from names alone."""

from __future__ import annotations

from functools import cache

import pytest

from mll_hf.graph.concepts import GraphUnion
from mll_hf.labels.join import JoinedLabels
from mll_hf.models.known import known_models, usable_models
from mll_hf.models.published import published_graph
from mll_hf.selection import Candidates, Figures, SelectionConfig, answer, select
from mll_hf.selection.budget import Shortlist, plan_trial, run_trial
from mll_hf.selection.candidates import unmatched
from mll_hf.selection.with_images import trial_prior

SKIN = ("melanoma", "nevus", "basal cell carcinoma")
LATIN = ("Danaus plexippus", "Vanessa atalanta", "Papilio machaon")
XRAY = ("pneumonia", "pleural effusion", "cardiomegaly")
DERMLIP, MONET = "redlessone/DermLIP_ViT-B-16", "suinleelab/monet"


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr(answer, "machine_memory", lambda: 16 * 10**9)


@cache
def chosen_for(classes, for_trial=False, **limits):
    none = JoinedLabels(GraphUnion.of([published_graph()]), ())
    candidates = Candidates(none, unmatched(classes), published=usable_models())
    return select(candidates, SelectionConfig(**limits), for_trial=for_trial)


def names(selection):
    return [selection.models[m].name for m in selection.chosen_models]


def test_a_dermatologist_gets_a_model_for_skin_and_the_next_one_within_limits():
    selection = chosen_for(SKIN)
    assert names(selection) == [DERMLIP]
    assert selection.models[0].figures is Figures.NOMINATED
    assert not selection.unmeasured
    assert names(chosen_for(SKIN, without=frozenset({DERMLIP}))) == [MONET]
    small = chosen_for(SKIN, max_parameters=10**8)
    assert small.models[0].figures is Figures.PUBLISHED
    assert small.unmeasured == ("dermatology",)


def test_butterflies_in_latin_get_a_model_for_species_without_a_number():
    selection = chosen_for(LATIN)
    assert names(selection) == ["imageomics/bioclip-2.5-vith14"]
    assert "accuracy not known" in selection.answer_lines[0]
    assert chosen_for(LATIN, max_parameters=10**8).notes[0].endswith(" But it is beyond your limits.")


def test_german_names_get_a_multilingual_model():
    selection = chosen_for(("Hund", "Katze", "Pferd"))
    (chosen,) = selection.chosen_models
    by_name = {model.name: model for model in known_models()}
    assert "de" in (model := by_name["ViT-B-16-SigLIP-i18n-256/webli"]).languages or model.languages == ("many",)
    assert selection.models[chosen].name == model.hub_id


def test_models_without_figures_are_tried_first_and_never_recommended():
    selection = chosen_for(XRAY)
    without = [model for model in selection.models if model.figures is Figures.NONE]
    assert len(without) >= 5
    assert selection.models[selection.chosen_models[0]].figures is Figures.PUBLISHED
    assert selection.answer_lines[2] == "Models made for radiology were not compared: the choice may matter much."
    shortlist = chosen_for(XRAY, for_trial=True, k=8)
    assert sum(selection.models[m].figures is Figures.NONE for m in shortlist.chosen_models) == 4
    backends = {model.name: model.ref.backend for model in shortlist.models}
    assert backends["StanfordAIMI/XrayCLIP__vit-b-16__laion2b-s34b-b88k"] == "transformers"


def test_what_does_not_fit_in_memory_is_not_tried(monkeypatch, caplog):
    monkeypatch.setattr(answer, "machine_memory", lambda: 4 * 10**9)
    shortlist = chosen_for(SKIN, for_trial=True, k=16)
    assert DERMLIP in names(shortlist)
    assert max(shortlist.models[m].cost.parameters for m in shortlist.chosen_models) <= 5 * 10**8
    assert "not tried, since they need over half of the memory: " in caplog.text


def test_the_best_value_is_named_first():
    selection = chosen_for(("cat", "dog"))
    first, second, _ = selection.answer_lines
    (chosen,) = selection.chosen_models
    assert selection.models[chosen].cost.gflops < 1000
    assert selection.models[chosen].cost.parameters * 4 <= 8 * 10**9
    assert first.startswith(f"Use {selection.models[chosen].name} (")
    assert second.startswith("Best at any cost: timm/PE-Core-bigG-14-448 (2.4 B parameters), 4,119 GFLOPs per image, ")
    assert names(chosen_for(("cat", "dog"), k=1)) == ["timm/PE-Core-bigG-14-448"]


def test_the_choice_hardly_matters_only_among_several_families():
    cifar = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    *_, third = chosen_for(cifar).answer_lines
    assert third.endswith(" families: the choice among them hardly matters.")


def test_a_trial_starts_with_the_best_specialist_and_the_best_general_model():
    shortlist = chosen_for(XRAY, for_trial=True, k=32)
    rows = shortlist.chosen_models
    models, prior = [shortlist.models[m] for m in rows], trial_prior(shortlist.estimate.subset(rows))
    sizes = [4 * model.cost.parameters or 10**9 for model in models]
    to_try = Shortlist(prior, sizes, 10**10, [model.figures is Figures.NONE for model in models])
    plan = plan_trial(to_try, [model.name for model in models])
    assert [models[m].figures for m in plan.order[:2]] == [Figures.NONE, Figures.PUBLISHED]
    kinds, fails = [], iter((False, True, False, True))

    def attempt(m):
        kinds.append(models[m].figures)
        return next(fails, True)

    run_trial(to_try, attempt, lambda tried: prior)
    assert kinds[:4] == [Figures.NONE, Figures.PUBLISHED, Figures.NONE, Figures.NONE]  # until one can be tried
