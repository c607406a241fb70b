"""Figures: ``benchmark`` with matplotlib, ``selection`` and ``labels`` with plotly.

Nothing is imported here, so that each module needs only its own library.
"""
