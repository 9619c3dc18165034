"""FaceSnap inside a Stable Diffusion WebUI.

From the ground up: `log` and `options`, then `generation` (from a script's arguments to the host), then `process` (what
this process shares), then `ui` and `api`, which do not know each other.
"""
