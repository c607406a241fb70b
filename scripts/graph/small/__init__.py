"""Sources of ``build_small_graphs.py``: a module per graph, and ``packages``, which fetches packages."""
