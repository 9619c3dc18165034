"""`facesnap bench attach`: cost of ID tokens on an SD1.5-shaped UNet, beside diffusers' own IP-Adapter."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import types
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from facesnap.attach import Attachment, RowPlan, attach, read_topology
from facesnap.attach.topology import ip_adapter_order
from facesnap.bench.timing import Variant, ratio, rounds, timed
from facesnap.checkpoints.adapter import Adapter, AdapterSpec
from facesnap.errors import importing
from facesnap.faces.align import ARCFACE_TEMPLATE
from facesnap.faces.face import Face, Quality
from facesnap.faces.identity import Identity
from facesnap.models.drawn import draw
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig, Stage1Config
from facesnap.models.projections import IDProjections, module_key
from facesnap.pipeline.pipeline import FaceSnapPipeline

CONTEXT, STRENGTH = 768, 0.8


def run(
    *, count: int = 10, latent: int = 32, channels: int = 320, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Measure on random weights of FaceID's layout (4 tokens).

    Args:
        count: rounds after one for warm-up. latent: side of the square latent. channels: of the UNet's first level.
        device, dtype: of the UNet.

    Returns:
        The report; ratios are medians of per-round ratios with quartiles.
    """
    unet = sd15_unet(channels, device, dtype)
    adapter = make_adapter(unet)
    pipeline = FaceSnapPipeline(adapter)
    identity = make_identity()
    conditioning = pipeline.conditioning(identity)
    call = batch(latent, device, dtype)
    theirs = _diffusers_ip_adapter(unet, adapter)
    embeds = torch.from_numpy(np.stack((np.zeros(512, np.float32), identity.f_id())))[:, None].to(device, dtype)
    results: dict[str, Tensor] = {}

    @torch.no_grad()
    def sample(name: str) -> None:
        results[name] = unet(*call).sample

    @torch.no_grad()
    def ip_adapter() -> None:
        results["theirs"] = theirs(*call, added_cond_kwargs={"image_embeds": [embeds]}).sample

    attachment = Attachment(unet, read_topology(unet), [conditioning], RowPlan.classifier_free())
    variants = {
        "bare": Variant(partial(sample, "bare")),
        "id_tokens": Variant(partial(sample, "id_tokens"), partial(installed, attachment)),
        "bare_again": Variant(partial(sample, "again")),
        "diffusers": Variant(ip_adapter),
    }
    with tqdm(total=count + 1, desc="rounds", unit="round") as bar:
        seconds = rounds(variants, count, on_round=bar.update)
    with installed(attachment):
        sample("id_tokens")
        live = projection_bytes(attachment, unet, adapter.projections)
    cpu = f"cpu, {torch.get_num_threads()} threads"
    return {
        "unet": {"layout": "sd15", "channels": channels, "parameters": sum(p.numel() for p in unet.parameters())},
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else cpu,
        "dtype": str(dtype).removeprefix("torch."), "latent": latent, "batch": 2, "rounds": count,
        "bare_seconds": round(float(np.median(seconds["bare"])), 4),
        "id_tokens_ratio": ratio(seconds["id_tokens"], seconds["bare"]),
        "diffusers_ip_adapter_ratio": ratio(seconds["diffusers"], seconds["bare"]),
        "bare_vs_bare_ratio": ratio(seconds["bare_again"], seconds["bare"]),
        "kv_bytes": attachment.tokens.kv_bytes,
        "projection_bytes_live": live,
        "projection_bytes": sum(p.numel() * p.element_size() for p in adapter.projections.parameters()),
        "warm_ms": warm_ms(unet, adapter),
        "max_abs_diff": float((results["id_tokens"] - results["theirs"]).abs().max()),
        "effect": float((results["id_tokens"] - results["bare"]).abs().max()),
        "bit_identical_afterwards": bool(torch.equal(results["bare"], results["again"])),
    }  # fmt: skip


@contextlib.contextmanager
def installed(attachment: Attachment) -> Iterator[None]:
    """The hooks of one sampling on and off again; its stacked keys and values stay, as between two steps."""
    attachment.install()
    try:
        yield
    finally:
        attachment.remove()


def sd15_unet(channels: int, device: str, dtype: torch.dtype) -> Any:
    """diffusers' UNet in SD1.5's shape with random weights of magnitude 1."""
    with importing(
        "diffusers, the reference of this measurement, cannot be imported",
        "diffusers",
        'pip install "facesnap[diffusers]"',
    ):
        from diffusers import UNet2DConditionModel
    unet: Any = UNet2DConditionModel(
        block_out_channels=(channels, 2 * channels, 4 * channels, 4 * channels), attention_head_dim=8,
        cross_attention_dim=CONTEXT, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )  # fmt: skip
    return draw(unet, 0).to(device, dtype)


def make_adapter(unet: nn.Module) -> Adapter:
    """An adapter of FaceID's layout for a UNet, drawn."""
    sites = {site.name: site.width or 0 for site in read_topology(unet).sites}
    mixer = draw(FacialAttributeMixer(MixerConfig(Stage1Config(512, 1024, 4, CONTEXT), None)), 1)
    projections = draw(IDProjections(sites, {"id": False}, CONTEXT), 2)
    return Adapter(AdapterSpec("sd15", recogniser="random", strength=STRENGTH), mixer, projections, "random")


def make_identity() -> Identity:
    """A person of one random vector."""
    vector = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    one = np.ones(1, np.float32)
    return Identity("random", "random", "random", vector, one, one)


def batch(latent: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x (2, 4, latent, latent), t and context (2, 77, 768) of one call: an uncond row and a cond row."""
    g = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, latent, latent, generator=g), torch.randn(2, 77, CONTEXT, generator=g)
    return x.to(device, dtype), torch.tensor(500, device=device), context.to(device, dtype)


def _diffusers_ip_adapter(unet: Any, adapter: Adapter) -> Any:
    """A second UNet on the same parameters with diffusers' IP-Adapter FaceID loaded from the adapter's weights."""
    with torch.device("meta"):
        twin = type(unet).from_config(unet.config)
    twin.load_state_dict(unet.state_dict(), assign=True)
    projection = {k.removeprefix("stage1."): v for k, v in adapter.mixer.state_dict().items()}
    keys = {}
    for i, site in enumerate(ip_adapter_order(tuple(adapter.projections.widths))):
        group = adapter.projections.sites[module_key(site)]["id"]  # type: ignore[index]
        keys[f"{2 * i + 1}.to_k_ip.weight"] = group.to_k.weight.detach()
        keys[f"{2 * i + 1}.to_v_ip.weight"] = group.to_v.weight.detach()
    twin._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": keys}])
    for processor in twin.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [STRENGTH]
    return twin.to(unet.device, unet.dtype).eval()


def projection_bytes(attachment: Attachment, unet: nn.Module, projections: nn.Module) -> int:
    """Bytes of projection weights that can be reached from the attachment and from the hooks on the UNet."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in projections.parameters()}
    hooks = [
        hook
        for module in unet.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks")
        for hook in getattr(module, kind).values()
    ]
    reached = {t.untyped_storage().data_ptr() for t in _tensors([vars(attachment), *hooks], set(unet.modules()))}
    return sum(size for pointer, size in storages.items() if pointer in reached)


def _tensors(roots: Iterable[object], skip: set[nn.Module]) -> Iterator[Tensor]:
    """All tensors that can be reached from some objects, not looking into the UNet, code or types."""
    seen = {id(module) for module in skip}
    queue = list(roots)
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, (type, types.ModuleType, types.CodeType)):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, types.FunctionType):  # its globals are not what it holds
            queue += [cell.cell_contents for cell in item.__closure__ or ()]
            queue += [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        else:
            queue += gc.get_referents(item)


def warm_ms(unet: nn.Module, adapter: Adapter, repeats: int = 20) -> float:
    """Median milliseconds that FaceSnap itself spends on a further generation of a person it has seen.

    From the reference file to installed hooks with keys and values stacked for the UNet, and off again; a photo file
    of 4 MB stands for the reference, its analysis is in the cache.
    """
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        noise = np.random.default_rng(0).integers(0, 256, (1180, 1180, 3), np.uint8)  # noise does not compress
        Image.fromarray(noise).save(photo)
        pipeline = FaceSnapPipeline(adapter, analyser=_Known())  # type: ignore[arg-type]
        q = {site.name: torch.zeros(2, 1, site.width or 0) for site in read_topology(unet).sites}

        def generation() -> None:
            conditioning = pipeline.conditioning(pipeline.identity([photo]))
            with attach(unet, [conditioning], RowPlan.classifier_free()) as attachment:
                rows = attachment.plan.for_batch(2)
                for name, queries in q.items():
                    attachment.tokens.prepare(name, rows, queries)

        generation()
        return round(float(np.median([timed(generation) for _ in range(repeats)])) * 1000, 3)


class _Known:
    """Stands for the face models, which a second generation must not call."""

    recogniser = "random"

    def __init__(self) -> None:
        self.calls = 0

    def faces(self, picture: np.ndarray, *, name: str) -> list[Face]:
        self.calls += 1
        if self.calls > 1:
            raise AssertionError("the reference was analysed again")
        face = Face(
            box=np.array([0, 0, 112, 112], np.float32), kps=ARCFACE_TEMPLATE, score=1.0,
            embedding=make_identity().embeddings[0],
            recogniser=self.recogniser, alias="random", picture_size=(112, 112), quality=Quality(1, 1, 1, 1),
            found_by="640", source=name, picture=np.zeros((112, 112, 3), np.uint8),
        )  # fmt: skip
        return [face]
