"""Copied into the WebUI as an extension of its own: watches the UNet from inside, and plants failures.

It knows nothing of how FaceSnap finds the rows: a row's role is read from its context (equal to the negative
prompt's or not), its picture from its latent (parallel to which picture's latent).
"""

import gc
import sys

import torch
from fastapi import Body
from modules import script_callbacks, scripts, shared

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
            from facesnap.webui.hosting import current_host

            current_host().enlist(p, parts)


def parts(topology):
    from facesnap.attach import Pictures, Speed, Structure
    from facesnap.hosts.parts import Parts

    net = NETS.setdefault(topology.names, random_ffrnet(topology))
    cond = net.project_tokens(torch.ones(1, 4, net.config.context_dim))

    def draw(view):
        return Pictures(torch.rand(1, 3, view.height, view.width, generator=torch.Generator().manual_seed(1)))

    return Parts((), [Structure(net, cond, draw, strength=STATE["structure"])], Speed.EXACT)


def random_ffrnet(topology):
    from facesnap.models.fidelity import FFRNet
    from facesnap.models.fidelity_config import FFRNetConfig

    if topology.names in NETS:
        return NETS[topology.names]
    skips = topology.skip_widths  # conv_in, then two layers and a halving for each of four levels
    config = FFRNetConfig(
        tuple(skips[i] for i in (1, 4, 7, 10)), ((1, 1), (1, 1), (1, 1), (0, 0)), 1, 768, False, None, 4 * skips[0],
        heads=8,
    )  # fmt: skip
    net, generator = FFRNet(config).requires_grad_(False).eval(), torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    return net


def memory():
    """Forge's: how many networks of ours are loaded, and what has gathered on the UNet that every pass starts from."""
    if not hasattr(shared.sd_model, "forge_objects"):
        return None
    from backend.memory_management import current_loaded_models

    objects = shared.sd_model.forge_objects_after_applying_lora
    unet = (objects or shared.sd_model.forge_objects).unet
    ours = sum(type(one.model.model).__name__ == "Carrier" for one in current_loaded_models)
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
    from facesnap.webui.hosting import current_host

    running = current_host()._running
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


def set_state(values: dict = Body(...)):  # noqa: B008
    narrow_controlnets()
    STATE.update(values, calls=[], steps=0, memory=[])
    return {"hooks": hooks()}


def get_state():
    from facesnap.webui.hosting import current_host

    return {
        "calls": STATE["calls"], "steps": STATE["steps"], "hooks": hooks(),
        "running": len(current_host()._running), "unet": id(live_unet()),
        "memory": memory(), "memories": STATE["memory"], "kept": len(current_host().placement.kept()),
        "bytes": tensor_bytes(), "axes": axes(),
        "ad_script_names": str(shared.opts.data.get("ad_script_names", "")),
    }  # fmt: skip


def tensor_bytes():
    """Of all tensors alive outside the host's models, each storage once."""
    gc.collect()
    models = {id(t) for m in live_unet().modules() for t in (*m._parameters.values(), *m._buffers.values())}
    storages = {}
    for one in gc.get_objects():
        if type(one) is torch.Tensor and id(one) not in models and one.device.type == "cpu":
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())


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


script_callbacks.on_cfg_denoiser(on_step)
script_callbacks.on_app_started(add_routes)
