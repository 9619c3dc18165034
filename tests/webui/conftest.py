"""Hypothesis without deadlines: machines that run tests are busy, and no test here is about time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("webui", deadline=None)
settings.load_profile("webui")
