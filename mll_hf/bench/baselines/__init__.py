"""Baselines from other papers, as pure functions of arrays; greater scores are better.

Left out:

- **Model Spider** (Zhang et al., NeurIPS 2023, arXiv 2306.03900) learns a token per model and per task, and a ranker
  over both. It needs many training tasks with labeled images on which every model is ranked; a dozen target tasks are
  too few to train it on all but one of them. A label needs no training tasks and no images of the target.
- **Learnware specifications** (Zhou, 2016; RKME in the Beimingwu system, arXiv 2401.14427) attach to each model a
  reduced kernel mean embedding of its *training data* and match it to the user's data. Many open vision-language models
  do not publish their training data, and embeddings of web-scale data would probably look alike. Labels keep the idea
  of a specification per model, but measure what the model can do.
- **VEGA** (arXiv 2412.20682) compares a graph of class texts with one of image clusters. Only unofficial
  implementations were found; their node term depends on the number of images, and their edge term correlates a
  similarity with a distance, so its sign is in doubt.
"""
