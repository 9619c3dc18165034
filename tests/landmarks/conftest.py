"""Hypothesis without a deadline: a fit takes milliseconds, but not on a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
