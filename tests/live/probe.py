"""Copied into the WebUI as an extension of its own: watches the UNet from inside, and plants failures.

It knows nothing of how FaceSnap finds the rows: a row's role is read from its context (equal to the negative
prompt's or not), its picture from its latent (parallel to which picture's latent).
"""

import base64
import gc
import inspect
import io
import json
import os
import sys
import types
import weakref
from pathlib import Path

import gradio
import torch
from fastapi import Body
from modules import script_callbacks, scripts, shared
from PIL import Image

STATE = {
    "watch": False,
    "fail_at": None,
    "calls": [],
    "memory": [],
    "steps": 0,
    "step": None,
    "handles": [],
    "structure": 0.0,
}
NETS = {}
ADAPTERS = {"read": [], "alive": []}  # weak references; how many were alive when the next was read


def live_unet():
    model = shared.sd_model
    if hasattr(model, "forge_objects"):
        return model.forge_objects.unet.model.diffusion_model
    return model.model.diffusion_model


def cross(text):
    return text["crossattn"] if isinstance(text, dict) else text


class Probe(scripts.Script):
    """Attaches a random FFRNet, where it is asked to."""

    def title(self):
        return "FaceSnap probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):  # after FaceSnap's own
        if STATE["structure"]:
            from facesnap.webui.process import current_host

            current_host().enlist(p, parts)


def parts(topology):
    from facesnap.attach import ControlConditioning, ControlPictures, Speed
    from facesnap.hosts.base import Parts

    net = NETS.setdefault(topology.names, random_ffrnet(topology))
    cond = net.project_tokens(torch.ones(1, 4, net.config.context_dim))

    def draw(view):
        return ControlPictures(torch.rand(1, 3, view.height, view.width, generator=torch.Generator().manual_seed(1)))

    return Parts((), [ControlConditioning(net, cond, draw, strength=STATE["structure"])], Speed.EXACT)


def random_ffrnet(topology):
    from facesnap.models.fidelity import FFRNet
    from facesnap.models.fidelity_config import FFRNetConfig

    if topology.names in NETS:
        return NETS[topology.names]
    skips = topology.skip_widths  # conv_in, then two layers and a halving for each level
    widths = tuple(skips[i] for i in (1, 4, 7, 10) if i < len(skips))
    if topology.base == "sdxl":  # its blocks are ten deep; two are enough here
        config = FFRNetConfig(widths, ((0, 0), (2, 2), (2, 2)), 2, 2048, True, 2816, 4 * skips[0], head_dim=64)
    else:
        depth = (1, 1), (1, 1), (1, 1), (0, 0)
        config = FFRNetConfig(widths, depth, 1, 768, False, None, 4 * skips[0], heads=8)
    net, generator = FFRNet(config).requires_grad_(False).eval(), torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    return net


def memory():
    """Forge's: how many networks of ours are loaded, and what has gathered on the UNet that every pass starts from."""
    if not hasattr(shared.sd_model, "forge_objects"):
        return None
    try:
        from backend.memory_management import current_loaded_models
    except ImportError:  # reForge and Classic
        from ldm_patched.modules.model_management import current_loaded_models

    objects = shared.sd_model.forge_objects_after_applying_lora
    unet = (objects or shared.sd_model.forge_objects).unet
    ours = sum(type(one.model.model).__name__ == "FFRNetCarrier" for one in current_loaded_models)
    return [ours, len(unet.extra_model_patchers_during_sampling), unet.extra_preserved_memory_during_sampling]


def on_step(params):
    STATE["steps"] += 1
    STATE["memory"].append(memory())
    STATE["step"] = params
    drop()
    if STATE["watch"] or STATE["fail_at"] is not None:
        STATE["handles"].append(live_unet().register_forward_hook(after_call, with_kwargs=True))


def drop():
    while STATE["handles"]:
        STATE["handles"].pop().remove()


def after_call(unet, args, kwargs, output):
    if STATE["fail_at"] is not None and STATE["steps"] >= STATE["fail_at"]:
        raise RuntimeError("planted by the probe")
    from facesnap.webui.process import current_host

    running = current_host().running
    x, context = args[0], kwargs["context"]
    plan = running[-1].plan if running else None
    rows = plan.for_batch(len(x)) if plan is not None and not plan.idle else ()
    STATE["calls"].append(
        {
            "batch": len(x),
            "rows": [[row.picture, row.cond] for row in rows],
            "truth": [[picture_of(x[i]), not is_uncond(context[i])] for i in range(len(x))],
            "tiles": [None if r.tile is None else [r.tile.frame, r.tile.top, r.tile.left] for r in rows],
            "size": list(x.shape[-2:]),
            "progress": plan.progress if plan else None,
            "steps": plan.steps if plan else None,
            "people": len(running[-1]._parts.people) if rows else 0,
            "inner": bool(getattr(STATE["step"].denoiser.p, "_ad_inner", False)),
        }
    )


def is_uncond(row):
    if STATE["step"].text_uncond is None:  # Forge with CFG 1
        return False
    text = cross(STATE["step"].text_uncond).to(row)
    n = min(text.shape[1], len(row))
    return any(torch.allclose(row[:n], one[:n], atol=1e-4) for one in text)


def picture_of(row):
    """The picture whose latent the row is a multiple of; -1 where none is (a tile)."""
    params = STATE["step"]
    pictures = len(cross(params.text_uncond)) if params.text_uncond is not None else len(params.x)
    latents = params.x[-pictures:].to(row)
    if latents.shape[1:] != row[:4].shape:
        return -1
    likeness = [torch.cosine_similarity(one.flatten(), row[:4].flatten(), dim=0).item() for one in latents]
    return max(range(len(likeness)), key=likeness.__getitem__)


def hooks():
    drop()
    unet = live_unet()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


def narrow_controlnets():
    """sd-webui-controlnet takes the widths of SD1.5's networks for granted; those of the tests are narrower."""
    guess = sys.modules.get("scripts.controlnet_model_guess")
    if guess is not None and hasattr(live_unet(), "channel_mult"):
        guess.controlnet_default_config["channel_mult"] = list(live_unet().channel_mult)


def compile_unet(wanted):
    """As `torch.compile` in place does it; the backend leaves the arithmetic as it is."""
    unet = live_unet()
    if wanted:
        unet.compile(backend="eager")
    else:
        unet._compiled_call_impl = None


def watch_adapters(wanted):
    """Count the adapters that are alive whenever one is read, Python's collector being off."""
    from facesnap.webui.generation import loader

    ADAPTERS.update(read=[], alive=[])
    gc.collect()
    (gc.disable if wanted else gc.enable)()
    if hasattr(loader.load_adapter, "probed"):
        return
    read = loader.load_adapter

    def reading(*args, **more):
        ADAPTERS["alive"].append(sum(one() is not None for one in ADAPTERS["read"]))
        adapter = read(*args, **more)
        ADAPTERS["read"] += [weakref.ref(one) for one in (adapter.mixer, adapter.projections, adapter.ffrnet) if one]
        return adapter

    reading.probed = True
    loader.load_adapter = reading


def go_online():
    """At its start the Hub's client was told to stay offline; now it may ask the tests' mirror."""
    from huggingface_hub import configure_http_backend, constants

    constants.HF_HUB_OFFLINE = False
    configure_http_backend()  # drops the sessions that refuse


def set_state(values: dict = Body(...)):  # noqa: B008
    narrow_controlnets()
    if "compiled" in values:
        compile_unet(values.pop("compiled"))
    if "adapters" in values:
        watch_adapters(values.pop("adapters"))
    if values.pop("online", False):
        go_online()
    STATE.update(values, calls=[], steps=0, memory=[])
    return {"hooks": hooks()}


def get_state():
    from facesnap.webui.process import current_host

    return {
        "calls": STATE["calls"], "steps": STATE["steps"], "hooks": hooks(),
        "running": len(current_host().running), "unet": id(live_unet()),
        "memory": memory(), "memories": STATE["memory"], "kept": len(current_host().placement.copies),
        "alive": ADAPTERS["alive"],
        "dtype": str(next(live_unet().parameters()).dtype), "axes": axes(),
        "ad_script_names": str(shared.opts.data.get("ad_script_names", "")),
    }  # fmt: skip


def tensor_bytes():
    """Of all tensors alive outside the host's models, each storage once.

    Only for a WebUI at rest: gc.get_objects hands out tuples that another thread is still building, whose code then
    fails with a SystemError.
    """
    gc.collect()
    models = {id(t) for m in live_unet().modules() for t in (*m._parameters.values(), *m._buffers.values())}
    storages = {}
    for one in gc.get_objects():
        if type(one) is torch.Tensor and id(one) not in models and one.device.type == "cpu":
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())


def resident():
    """MiB of this process in memory; None where the system does not tell."""
    file = Path("/proc/self/statm")
    return (
        int(file.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20 if file.exists() else None
    )


def upscale(app, body):
    """The gallery's button that runs a hires pass over a picture made before, called as the page calls it.

    Args:
        body: picture (base64 PNG), infotext, fields (of the page by name), steps, sampler, seed, snap.
    """
    from modules import txt2img

    api = next(r.endpoint.__self__ for r in app.routes if r.path == "/sdapi/v1/txt2img")
    arguments = list(api.default_script_arg_txt2img)
    values = {"FaceSnap": [body["snap"] or False], "Sampler": [body["steps"], body["sampler"]], "Seed": [body["seed"]]}
    for script in scripts.scripts_txt2img.alwayson_scripts:
        given = values.get(script.title(), [])
        arguments[script.args_from : script.args_from + len(given)] = given
    fields = {"prompt_styles": [], "override_settings_texts": [], **body["fields"]}
    parameters = inspect.signature(txt2img.txt2img_create_processing).parameters.values()
    names = [one.name for one in parameters if one.kind == one.POSITIONAL_OR_KEYWORD][2:]
    picture = body["picture"]
    if gradio.__version__.startswith("4."):  # it hands pictures on, Gradio 3 their text
        picture = Image.open(io.BytesIO(base64.b64decode(picture))), None
    made, *_ = txt2img.txt2img_upscale(
        "probe", types.SimpleNamespace(username=None), [picture], 0, json.dumps({"infotexts": [body["infotext"]]}),
        *(fields.get(name) for name in names), *arguments,
    )  # fmt: skip
    out = io.BytesIO()
    made = made["value"] if isinstance(made, dict) else made  # Neo updates the gallery
    first = made[0][0] if isinstance(made[0], tuple) else made[0]
    first.save(out, "PNG")
    return {"image": base64.b64encode(out.getvalue()).decode()}


def axes():
    """Labels of the X/Y/Z plot of txt2img in the order of its indices."""
    for script in scripts.scripts_data:
        if script.script_class.__module__ == "xyz_grid.py":
            options = script.module.axis_options
            return [one.label for one in options if type(one).__name__ == "AxisOption" or not one.is_img2img]
    return []


def add_routes(demo, app):
    app.add_api_route("/probe", set_state, methods=["POST"])
    app.add_api_route("/probe", get_state, methods=["GET"])
    app.add_api_route("/probe/alive", lambda: {"bytes": tensor_bytes(), "resident": resident()}, methods=["GET"])

    def upscale_route(body: dict = Body(...)):  # noqa: B008
        return upscale(app, body)

    app.add_api_route("/probe/upscale", upscale_route, methods=["POST"])


script_callbacks.on_cfg_denoiser(on_step)
script_callbacks.on_app_started(add_routes)
