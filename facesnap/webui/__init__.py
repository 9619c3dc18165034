"""Inside a Stable Diffusion WebUI: settings, infotext, X/Y/Z axes, model folders, requirements.

The modules here import neither gradio nor the WebUI's `modules`; what they need of them is handed in.
"""
