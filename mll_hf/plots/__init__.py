"""Figures: of the benchmark (``benchmark``, matplotlib), of selections and labels (``selection``, ``labels``, plotly).

Nothing is imported here, so that each figure needs only its own library.
"""
