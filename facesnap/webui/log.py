"""Logging inside the WebUI: one handler on the logger "facesnap", however often the UI is reloaded."""

from __future__ import annotations

import logging
import sys

NAME = "facesnap"
_MARK = "facesnap-webui"


def setup(level: str = "info") -> logging.Logger:
    """The package's logger at a level ("debug", "info", "warning", "error"), with a handler of its own unless the
    host's root logger has one."""
    logger = logging.getLogger(NAME)
    logger.setLevel(level.upper())
    logger.handlers = [handler for handler in logger.handlers if handler.get_name() != _MARK]
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.set_name(_MARK)
        handler.setFormatter(logging.Formatter("FaceSnap %(levelname)s: %(message)s"))
        logger.addHandler(handler)
    logger.propagate = bool(logging.getLogger().handlers)
    return logger
