"""The trained miniature that the package ships: where it lies, and how it is loaded.

    weights/pipeline/                 StableDiffusionPipeline in diffusers' layout
    weights/adapter.safetensors       FaceSnap for it
    weights/encoder/                  image encoder, model.safetensors and config.json
    weights/people/SEED.png           references of people that none of them was trained on
    weights/NOTICE.txt                what they were made from

All tensors are float16 on the disk; `load` computes in float32. `facesnap tiny ship` writes the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from facesnap.checkpoints import native
from facesnap.errors import IdentityMismatchError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.hosts.diffusers import DiffusersHost
from facesnap.pipeline.pipeline import FaceSnapPipeline

WEIGHTS = Path(__file__).parent / "weights"
PIPELINE, ADAPTER, ENCODER, PEOPLE, NOTICE = "pipeline", "adapter.safetensors", "encoder", "people", "NOTICE.txt"
LIMIT = 32_000_000  # bytes of everything in the folder


@dataclass(frozen=True, eq=False)
class Shipped:
    """The loaded miniature. `people`: name -> file of a reference."""

    host: DiffusersHost
    pipeline: FaceSnapPipeline
    people: dict[str, Path]
    size: int


def load(analyser: FaceAnalyser, folder: Path = WEIGHTS) -> Shipped:
    """Load the weights for the CPU.

    Raises:
        IdentityMismatchError: they were trained with another recogniser than the analyser's.
        HostError, CheckpointError, EncoderError: a part is damaged or does not fit the others.
    """
    adapter = native.load(folder / ADAPTER)
    if adapter.spec.recogniser != analyser.recogniser:
        raise IdentityMismatchError(
            f"The demo's weights do not know the recogniser of the pack {analyser.pack.name}.",
            expected=f"that of {adapter.spec.recogniser_name or 'the pack that `make demo` builds'}",
            remedy="use that pack, or add --untrained (make demo PACK=... DEMO=--untrained), which takes any pack",
        )
    for module in (adapter.mixer, adapter.projections, adapter.ffrnet):
        if module is not None:
            module.float()
    host = DiffusersHost.load(folder / PIPELINE, device="cpu")
    adapter.check_unet(host.topology)
    encoder = None
    if adapter.mixer.config.clip_levels:
        encoder = ImageEncoder.load(folder / ENCODER / "model.safetensors")
    side = int(host.pipeline.unet.config.sample_size) * int(host.pipeline.vae_scale_factor)
    people = {file.stem: file for file in sorted((folder / PEOPLE).glob("*.png"))}
    return Shipped(host, FaceSnapPipeline(adapter, analyser, encoder), people, side)
