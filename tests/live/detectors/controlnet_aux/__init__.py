"""Stands in for detectors that sd-webui-controlnet imports and no test uses."""


class SamDetector:
    pass
