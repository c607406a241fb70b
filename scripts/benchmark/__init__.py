"""The benchmark: selection by labels, compared with all baselines and the best possible choice."""
