"""The WebUI's script: its callbacks, handed on to the package."""

from pathlib import Path

from modules import script_callbacks, scripts, shared

from facesnap import remedies
from facesnap.hosts import face_pass
from facesnap.hosts.base import is_face_pass
from facesnap.webui import api as routes
from facesnap.webui import options
from facesnap.webui.generation import job, xyz
from facesnap.webui.process import current_host, loader
from facesnap.webui.ui import accordion, lists

remedies.stand_in(remedies.WEBUI)
HOST = current_host()


class FaceSnapScript(scripts.Script):
    def title(self):
        return "FaceSnap"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        made = accordion.build("img2img" if is_img2img else "txt2img")
        self.infotext_fields, self.paste_field_names = made.infotext_fields, made.paste_field_names
        return made.components

    def process(self, p, *args):
        if is_face_pass(p):
            if shared.opts.facesnap_adetailer:
                HOST.adopt(p)
            return
        face_pass.join(shared.opts, Path(__file__).stem)
        HOST.own(p)
        job.begin(HOST, loader(), p, args, shared.opts)

    def postprocess_image(self, p, pp, *args):
        if not is_face_pass(p):
            job.after_picture(p, pp.image)

    def postprocess(self, p, processed, *args):
        job.finish(p, processed)

    def process_before_every_sampling(self, p, *args, **kwargs):
        HOST.before_sampling(p, kwargs.get("x"))


def add_axes():
    grid = xyz.find_grid(scripts.scripts_data)
    if grid is not None:
        xyz.register(grid, lists.adapter_names, lists.identity_names, lists.is_adapter)


add_axes()  # without a UI the grid reads its list before `on_before_ui`
script_callbacks.on_before_ui(add_axes)  # where the grid is loaded after us
script_callbacks.on_cfg_denoiser(HOST.before_step)
script_callbacks.on_model_loaded(lambda model: HOST.free())
script_callbacks.on_ui_settings(lambda: options.register(shared))
script_callbacks.on_after_component(accordion.PAGES.after_component)
script_callbacks.on_app_started(routes.register)
