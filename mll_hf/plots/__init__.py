"""Figures. Nothing is imported here, since each module needs only its own library: matplotlib or plotly."""
