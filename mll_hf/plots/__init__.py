"""Figures. Nothing is imported here, since each module needs a different library: matplotlib or plotly."""
