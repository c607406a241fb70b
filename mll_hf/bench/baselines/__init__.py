"""Other ways to choose and combine models, each from its paper and as pure functions from arrays.

- :mod:`~mll_hf.bench.baselines.choices`: the oracle, the best fixed model, random, the best by a general score.
- :mod:`~mll_hf.bench.baselines.unlabeled`: scores of models from their predictions on images without labels.
- :mod:`~mll_hf.bench.baselines.transferability`: NCE, LEEP, LogME and H-score, from a few labeled images or from texts
  that stand for them.
- :mod:`~mll_hf.bench.baselines.modelgpt`: LOVM's text features and regression over data sets.
- :mod:`~mll_hf.bench.baselines.swab`: rank transport between classes.
- :mod:`~mll_hf.bench.baselines.ensembles`: uniform and confidence ensembles, the consensus transport of SOTA.

Scores are greater for better models.

Left out, and why:

- **Model Spider** (Zhang et al., NeurIPS 2023, arXiv 2306.03900) learns a token for every model and every task and a
  ranker over both. It needs a collection of training tasks with labeled images and how all models rank on each, at
  least approximately, so every model has to be run on all of them. Given that, it orders a zoo from few forward
  passes. A label needs no training tasks and no images of the target, and says which concepts a model is good at. A
  dozen target tasks are too few to train such a ranker on all but one of them.
- **Learnware specifications** (Zhou, 2016; RKME in the Beimingwu system, arXiv 2401.14427) attach to each model a
  reduced kernel mean embedding of its *training data*, and match it to the user's data. They need the training data of
  each model, or its owner; many open vision-language models do not publish theirs, and those of web-scale data would
  probably look alike. Labels keep the idea (a specification per model, matched to the task) and measure what a model
  can do instead of what it was fed.
- **VEGA** (arXiv 2412.20682) compares a graph of class texts with one of image clusters. Only unofficial
  re-implementations were found; their node term depends on the number of images, and their edge term correlates a
  similarity with a distance, so that the sign is in doubt.
"""
