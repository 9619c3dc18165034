"""The WebUI's script: its callbacks, handed on to the package."""

from pathlib import Path

from modules import script_callbacks, scripts, shared

from facesnap.hosts.face_pass import takes_part
from facesnap.webui import accordion, generation, options
from facesnap.webui.hosting import current_host, studios

HOST = current_host()


class FaceSnapScript(scripts.Script):
    def title(self):
        return "FaceSnap"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return accordion.build("img2img" if is_img2img else "txt2img")

    def process(self, p, *args):
        if takes_part(p, shared.opts, Path(__file__).stem):
            generation.begin(HOST, studios(), p, args)


script_callbacks.on_cfg_denoiser(HOST.before_step)
script_callbacks.on_ui_settings(lambda: options.register(shared))
