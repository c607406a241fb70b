"""Other ways to choose and combine models, each from its paper and as pure functions from arrays.

- :mod:`~mll_hf.bench.baselines.choices`: the oracle, the best fixed model, random, the best by a general score.
- :mod:`~mll_hf.bench.baselines.unlabelled`: scores of models from their predictions on images without labels.
- :mod:`~mll_hf.bench.baselines.transferability`: NCE, LEEP, LogME and H-score, from a few labelled images or from texts
  that stand for them.
- :mod:`~mll_hf.bench.baselines.modelgpt`: LOVM's text features and regression over data sets.
- :mod:`~mll_hf.bench.baselines.swab`: rank transport between classes.
- :mod:`~mll_hf.bench.baselines.ensembles`: uniform and confidence ensembles, the consensus transport of SOTA.

Scores are greater for better models.

Left out, and why:

- **Model Spider** (Zhang et al., NeurIPS 2023, arXiv 2306.03900) learns a token for every model and every task and a
  ranker over both. It needs a collection of training tasks with labelled images and the true ranking of all models on
  each, and retraining of the ranker for models that come later unless they are scored on those tasks as well. Given
  that, it orders a zoo from few forward passes; a label needs no training tasks and no images of the target, and says
  which concepts a model is good at. On a zoo of 23 models a ranker would be fitted on 10 tasks: too few to be fair.
- **Learnware specifications** (Zhou, 2016; RKME in the Beimingwu system, arXiv 2401.14427) attach to each model a
  reduced kernel mean embedding of its *training data*, and match it to the user's data. They need the training data of
  each model, or its owner, which open vision-language models rarely publish; with web-scale data all specifications
  would look alike. Labels keep the idea (a specification per model, matched to the task) and measure what a model can
  do instead of what it was fed.
- **VEGA** (arXiv 2412.20682) compares a graph of class texts with one of image clusters. Its published formula could
  not be checked; re-implementations disagree on the scale of its node term and the sign of its edge term.
"""
