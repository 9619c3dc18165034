"""Weights that others publish: what there is (`catalogue`), fetching it (`fetch`) and doing so in a thread (`jobs`)."""
