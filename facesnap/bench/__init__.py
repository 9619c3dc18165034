"""Benchmarks: each module has run(...) -> dict of plain numbers, printed by `facesnap bench NAME --json`."""
