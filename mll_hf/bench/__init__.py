"""The benchmark: what choosing by labels is worth, against every baseline and the best possible choice."""
