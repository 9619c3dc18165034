"""A WebUI's page in miniature: two tabs around our real script, real Gradio, a tiny real UNet that really samples.

`python -m tests.webui.standin.page MODELS PORT`: MODELS is the WebUI's folder of models. Gradio 4 stands for Forge.
"""

from __future__ import annotations

import html
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from PIL import Image

from tests.networks_once import networks_once

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
FORGE = int(gr.__version__.split(".")[0]) >= 4
STYLE = b'<link rel="stylesheet" href="/extension/style.css"></body>'


def load_script(models: Path) -> Any:
    """scripts/facesnap_script.py as the hosts load it, among modules that stand in."""
    sys.path[:0] = [str(ROOT), str(HERE), *([str(HERE / "forge")] if FORGE else [])]
    from modules import paths, shared

    paths.models_path = str(models)
    shared.opts.facesnap_pack = "test_pack"
    spec = importlib.util.spec_from_file_location("facesnap_script", ROOT / "scripts" / "facesnap_script.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Sampler:
    """Makes pictures with a tiny UNet, the script around it as in the hosts."""

    def __init__(self) -> None:
        import modules.script_callbacks
        import modules.sd_unet
        import modules.shared

        from tests.networks import CONTEXT, ldm_unet
        from tests.webui.standin.sampling import A1111Host, ForgeHost

        self.width = CONTEXT["sd15"]
        self.host = (ForgeHost if FORGE else A1111Host)(modules)
        self.host.load(ldm_unet("sd15", seed=1))

    @torch.no_grad()
    def picture(self, script: Any, prompt: str, size: tuple[int, int], init: Any, args: Any) -> tuple[Any, str]:
        """The picture and its infotext. Raises what the sampling raises."""
        from facesnap.settings.infotext import line
        from tests.webui.standin.sampling import Processing

        text = torch.randn(1, 7, self.width, generator=torch.Generator().manual_seed(len(prompt)))
        init_images = {} if init is None else {"init_images": [init]}
        p = Processing(
            self.host, [[text]], torch.zeros(1, 7, self.width), prompt=prompt, width=size[0], height=size[1],
            **init_images,
        )  # fmt: skip
        script.process(p, *args)
        latent = p.sample()[0, :3].permute(1, 2, 0)  # (4, h, w) -> (h, w, 3)
        pixels = (latent / latent.abs().max() * 127 + 128).clamp(0, 255).byte().numpy()
        made = SimpleNamespace(image=Image.fromarray(pixels).resize(size))
        script.postprocess_image(p, made, *args)
        parameters = {"Steps": 4, "Sampler": "Euler", "CFG scale": 3, **p.extra_generation_params}
        return made.image, f"{prompt}\n{line(parameters)}"


class Tab:
    """txt2img or img2img."""

    def __init__(self, name: str, script: Any, sampler: Sampler) -> None:
        self.name, self.script, self.sampler = name, script, sampler
        from modules.ui_components import ToolButton

        from tests.webui.standin.img2img import tabs

        with gr.Row():
            self.prompt = gr.Textbox("a person", label="Prompt", elem_id=f"{name}_prompt")
            self.paste = ToolButton("↙️", elem_id=f"{name}_paste")
            self.generate = gr.Button("Generate", elem_id=f"{name}_generate")
        with gr.Row():
            with gr.Column():
                self.width_ = gr.Slider(64, 1024, 256, step=8, label="Width", elem_id=f"{name}_width")
                self.height = gr.Slider(64, 1024, 256, step=8, label="Height", elem_id=f"{name}_height")
                made = tabs() if name == "img2img" else {}
                self.init = made.get("img2img_image") or gr.Image(type="pil", label="Init", visible=False)
                self.controls = script.ui(name == "img2img")
            with gr.Column():
                self.gallery = gr.Gallery(label="Output", elem_id=f"{name}_gallery")
                with gr.Row():
                    self.send = {
                        to: ToolButton(f"to {to}", elem_id=f"{name}_send_to_{to}") for to in ("img2img", "inpaint")
                    }
                self.infotext = gr.Textbox(label="Info", elem_id=f"{name}_infotext")
                self.log = gr.HTML(elem_id=f"html_log_{name}")
        self.generate.click(
            self.run, [self.prompt, self.width_, self.height, self.init, *self.controls],
            [self.gallery, self.infotext, self.log],
        )  # fmt: skip
        self.fields = [(self.prompt, "Prompt"), *script.infotext_fields]
        self.paste.click(self.pasted, [self.prompt], [component for component, _ in self.fields])

    def run(self, prompt: str, width: float, height: float, init: Any, *args: Any) -> tuple[Any, str, str]:
        from facesnap.webui.generation.pictures import decode

        init = decode(init, "the init image") if isinstance(init, str) and init else init or None  # Forge's is text
        try:
            image, text = self.sampler.picture(self.script, prompt, (int(width), int(height)), init, args)
        except Exception as error:  # as the hosts show it
            return [], "", f'<div class="error">{html.escape(f"{type(error).__name__}: {error}")}</div>'
        return [image], text, ""

    def pasted(self, text: str) -> list[Any]:
        """As the hosts' paste: a field's function is asked, None leaves the control alone."""
        from facesnap.settings.infotext import parse_parameters

        params = {"Prompt": text.split("\n")[0], **parse_parameters(text)}
        found = []
        for component, key in self.fields:
            value = key(params) if callable(key) else params.get(key)
            kept = value is None or isinstance(value, dict)
            found.append((value or gr.update()) if kept else gr.update(value=type(component.value)(value)))
        return found


def connect(source: Tab, target: Tab) -> None:
    """ "Send to": what the scripts of both tabs name in `paste_field_names`."""
    names = ["Prompt", *source.script.paste_field_names]
    for button in source.send.values():
        button.click(
            lambda *values: list(values), [one for one, key in source.fields if key in names],
            [one for one, key in target.fields if key in names],
        )  # fmt: skip


def checkpoints() -> None:
    """The list at the top of the page. Choosing loads nothing, as in Forge; AUTOMATIC1111 loads a moment later."""
    from modules import paths, sd_models, shared

    from tests.webui.standin.sampling import LOADED

    for file in (Path(LOADED), *sorted((Path(paths.models_path) / "Stable-diffusion").glob("*.safetensors"))):
        sd_models.checkpoints_list[f"{file.name} [0123]"] = sd_models.checkpoint(file)
    titles = list(sd_models.checkpoints_list)
    shared.opts.sd_model_checkpoint = titles[0]
    with gr.Row(elem_id="quicksettings"):
        named = {"elem_classes": ["model_selection"]} if FORGE else {"elem_id": "setting_sd_model_checkpoint"}
        chosen = gr.Dropdown(titles, value=titles[0], label="Checkpoint", **named)
        chosen.change(lambda title: setattr(shared.opts, "sd_model_checkpoint", title), [chosen], [])


def build(module: Any, sampler: Sampler) -> gr.Blocks:
    from modules import script_callbacks, scripts

    script_callbacks.run("before_ui")
    with gr.Blocks(title="Stand-in") as demo:
        checkpoints()
        with gr.Tabs(elem_id="tabs"):
            tabs = []
            for name in ("txt2img", "img2img"):
                with gr.TabItem(name, id=name, elem_id=f"tab_{name}"):
                    script = module.FaceSnapScript()
                    script.is_img2img = name == "img2img"
                    tabs.append(Tab(name, script, sampler))
        connect(*tabs)
        gr.HTML("", elem_id="footer")
    assert isinstance(scripts.scripts_data, list)
    return demo


def injected() -> str:
    """What the hosts put into the page: the extension's files, and what those files call."""
    from modules.ui_components import tooltips

    files = sorted((ROOT / "javascript").glob("*.js"))
    scripts = "".join(f'<script src="/extension/javascript/{file.name}"></script>' for file in files)
    titles = f"<script>window.standinTitles = {json.dumps(tooltips)};</script>"
    host = '<script src="/standin/page.js"></script>'
    return f"{titles}{host}{scripts}</head>"


def serve(demo: gr.Blocks, port: int) -> None:
    app = FastAPI()
    for name, folder in (("standin", HERE), ("extension", ROOT)):
        app.mount(f"/{name}", StaticFiles(directory=folder))

    @app.middleware("http")
    async def inject(request: Request, call_next: Callable[..., Any]) -> Response:
        response = await call_next(request)
        if request.url.path != "/" or "text/html" not in response.headers.get("content-type", ""):
            return response
        body = b"".join([chunk async for chunk in response.body_iterator])
        headers = {key: value for key, value in response.headers.items() if key != "content-length"}
        body = body.replace(b"</head>", injected().encode(), 1).replace(b"</body>", STYLE, 1)
        return Response(body, response.status_code, headers)

    demo.queue()
    gr.mount_gradio_app(app, demo, path="/")
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    script_module = load_script(Path(sys.argv[1]))
    with networks_once():
        serve(build(script_module, Sampler()), int(sys.argv[2]))
