"""Baselines from other papers, as pure functions of arrays; higher scores are better.

Not implemented:

- **Model Spider** (Zhang et al., NeurIPS 2023, arXiv 2306.03900): learns tokens of models and tasks and a ranker over
  both, which needs many training tasks with labeled images; a dozen target tasks are too few.
- **Learnware specifications** (Zhou, 2016; Beimingwu, arXiv 2401.14427): describe a model by its training data, which
  many open vision-language models do not publish.
- **VEGA** (arXiv 2412.20682): only unofficial implementations were found; the node term depends on the number of
  images, and the edge term correlates a similarity with a distance, so its sign is in doubt.
"""
