"""The demo: the main job on a real photo, with whatever weights are at hand."""
