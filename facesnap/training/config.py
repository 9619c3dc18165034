"""The configuration of one training run: a YAML file, checked before anything is loaded."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from facesnap.errors import SettingsError, importing
from facesnap.remedies import command

with importing(
    "Training cannot start",
    "pydantic 2 and PyYAML",
    'pip install "facesnap[train]" in an environment of its own, not in the WebUI\'s',
):  # pydantic 1, which some WebUIs pin, lacks ConfigDict
    import yaml
    from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

Part = Literal["mixer", "projections", "ffrnet"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseConfig(Section):
    """The frozen model."""

    model: Path = Field(description="diffusers folder, or a single-file checkpoint")
    config: Path | None = Field(default=None, description="folder with the configuration of a single-file checkpoint")


class DataConfig(Section):
    """The folder that `facesnap prepare` made, and how references are chosen."""

    folder: Path = Field(description="output folder of `facesnap prepare`")
    other_photo: float = Field(default=0.5, ge=0, le=1, description="probability that the reference is another photo")
    workers: int = Field(default=0, ge=0, le=64, description="loader processes; any number gives the same samples")


class AdapterConfig(Section):
    """The adapter that is trained."""

    start: Path | Literal["scratch"] = Field(
        default="scratch", description="scratch, or any adapter file to go on from"
    )
    sees: Literal["both", "vector", "image"] = Field(
        default="both",
        description="of a person: the recogniser's vector and the image encoder's tokens, or one of them, to compare",
    )
    tokens: int = Field(default=4, ge=1, le=64, description="stage 1: ID tokens")
    depth: int = Field(default=4, ge=1, le=12, description="layers of either stage")
    queries: int = Field(default=16, ge=1, le=256, description="stage 2: learned queries, the tokens of f_mix")
    width: int | None = Field(default=None, ge=64, description="stage 2: width; by default 768 (SD1.5) or 1280 (SDXL)")
    dim_head: int = Field(default=64, ge=8, description="width of one attention head")
    levels: tuple[int, ...] = Field(default=(), description="CLIP hidden states beside the penultimate one")
    projections: bool = Field(default=True, description="ID tokens in the UNet's cross-attention; false is the paper")
    ffrnet: Literal["full", "lite", "lora", "none"] = Field(
        default="full", description="the landmark network; lite is SDXL only, lora shares the UNet's own encoder"
    )
    rank: int = Field(default=64, ge=1, le=1024, description="of a fresh lora")
    hint: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(16, 32, 96, 256), description="channels of a fresh FFRNet's hint network, from the whole picture down"
    )
    name: str = Field(default="FaceSnap", description="of the checkpoint, for people")
    licence: str = Field(default="", description="of the checkpoint, for people")


class LossWeights(Section):
    """Factors of the terms beside the diffusion loss; 0 leaves a term out altogether."""

    face_box: float = Field(default=0.0, ge=0, description="diffusion loss inside the face box")
    identity: float = Field(default=0.0, ge=0, description="L_id, weighted by alpha_bar; 0.1 is usual")
    identity_from: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="smallest alpha_bar that is judged: below, x0's estimate shows no face yet",
    )
    identity_share: float = Field(
        default=1.0, gt=0, le=1, description="of the samples that are judged; they count as much more: cheaper, noisier"
    )
    leak: float = Field(default=0.0, ge=0, description="FFRNet's residuals outside the head")


class AlignmentConfig(Section):
    """Pictures sampled with the identity, beside the other losses; use a base model that samples well in few steps."""

    semantic: float = Field(default=0.6, ge=0, description="what the prompt's words attend to stays")
    layout: float = Field(default=0.1, ge=0, description="the UNet's queries stay")
    identity: float = Field(
        default=0.0, ge=0, description="L_id of the sampled face and the mean of the person's photos; PuLID has 1"
    )
    pack: str | None = Field(
        default=None,
        description="face pack (name or folder) whose detector finds the sampled face; without one, it is taken to be"
        " where FFRNet's picture puts it",
    )
    steps: int = Field(default=4, ge=1, le=16, description="of the sampling")
    through: int = Field(
        default=1, ge=1, le=16, description="last steps that the gradient goes through; each holds its activations"
    )
    samples: int | None = Field(default=None, ge=1, description="of a micro-batch that are sampled; null: all of them")
    prompts: tuple[str, ...] | None = Field(
        default=(
            "portrait of a person in a spacesuit, cinematic light",
            "pencil sketch of a person",
            "a person reading in a garden, soft light",
            "oil painting of a person with a hat",
            "a person in the rain at night, neon light",
        ),
        min_length=1,
        description="of the sampled pictures, in place of the photos' captions; null: these captions",
    )

    @model_validator(mode="after")
    def _as_many(self) -> AlignmentConfig:
        if self.through > self.steps:
            raise ValueError(f"the gradient cannot go through {self.through} of {self.steps} steps")
        return self


class StageConfig(Section):
    """A run of steps with one set of trainable parts; the optimiser starts afresh in each."""

    name: str
    steps: int = Field(ge=1)
    lr: dict[Part, float] = Field(min_length=1, description="learning rate of each part that is trained")
    warmup: int = Field(default=100, ge=0, description="steps of linear growth")
    schedule: Literal["constant", "cosine"] = "constant"
    losses: LossWeights = LossWeights()
    align: AlignmentConfig | None = None

    @property
    def judges(self) -> bool:
        """Whether a recogniser judges in this stage."""
        return self.losses.identity > 0 or (self.align is not None and self.align.identity > 0)


class NoiseConfig(Section):
    min_snr_gamma: float | None = Field(default=5.0, gt=0, description="null: all timesteps weigh alike")
    shift: float = Field(
        default=1.0, gt=0, description="above 1, noisy timesteps come more often: t -> s t / (1 + (s - 1) t)"
    )


class DropConfig(Section):
    """Probabilities; what is dropped is replaced by what inference gives in its place."""

    text: float = Field(default=0.05, ge=0, le=1)
    identity: float = Field(default=0.05, ge=0, le=1)
    both: float = Field(default=0.05, ge=0, le=1, description="text and identity together")
    landmarks: float = Field(default=0.15, ge=0, le=1, description="a black landmark picture")

    @model_validator(mode="after")
    def _together(self) -> DropConfig:
        if self.text + self.identity + self.both > 1:
            raise ValueError("text, identity and both add up to more than 1")
        return self


class AugmentConfig(Section):
    """Of the landmarks; references are varied by `facesnap prepare`."""

    jitter: float = Field(
        default=0.005, ge=0, le=0.1, description="deviation of the 72 points, of the outer-eye distance"
    )


class OptimiserConfig(Section):
    kind: Literal["adamw", "adamw8bit"] = "adamw"
    batch: int = Field(default=4, ge=1, description="of one process in one micro-batch")
    accumulation: int = Field(default=1, ge=1, description="micro-batches a step")
    weight_decay: float = Field(default=0.01, ge=0)
    eps: float = Field(
        default=1e-8, gt=0, description="added to the second moment's root; larger ones damp rounding noise"
    )
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(default=0.9999, ge=0, lt=1, description="decay of the averaged weights; 0 keeps none")


class CheckpointConfig(Section):
    every: int = Field(default=1000, ge=1, description="steps")
    keep: int = Field(default=2, ge=1, description="latest ones that stay")


class SamplesConfig(Section):
    """Pictures of fixed people during the training."""

    every: int = Field(default=0, ge=0, description="steps; 0 makes none")
    people: int = Field(default=4, ge=1, le=16, description="the first people of the data")
    prompt: str = "portrait of a person, soft light"
    steps: int = Field(default=20, ge=1, le=200)
    cfg: float = Field(default=5.0, ge=0, le=50)


class TrainingConfig(Section):
    """Everything; see `facesnap/training/configs` for examples."""

    base: BaseConfig
    data: DataConfig
    output: Path = Field(description="folder of checkpoints, logs and samples")
    adapter: AdapterConfig = AdapterConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    noise: NoiseConfig = NoiseConfig()
    drops: DropConfig = DropConfig()
    augment: AugmentConfig = AugmentConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    samples: SamplesConfig = SamplesConfig()
    precision: Literal["no", "fp16", "bf16"] = "bf16"
    save_activations: bool = Field(default=True, description="recompute activations in the backward pass")
    recogniser: Path | None = Field(
        default=None,
        description="judge of L_id: an ONNX file, or a tiny base's recogniser.safetensors; not the one of the data",
    )
    log: Literal["jsonl", "tensorboard", "wandb"] = "jsonl"
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if any(stage.judges for stage in self.stages) and self.recogniser is None:
            raise ValueError("a stage asks for the identity loss, so `recogniser` must name a file")
        if any(stage.losses.leak > 0 for stage in self.stages) and self.adapter.ffrnet == "none":
            raise ValueError("a stage asks for the leak loss, which needs an FFRNet")
        if self.adapter.sees != "both" and self.adapter.start != "scratch":
            raise ValueError("adapter.sees is for fresh adapters; a checkpoint sees what it was trained with")
        judged = [stage.align for stage in self.stages if stage.align and stage.align.identity]
        if any(align.pack is None for align in judged) and self.adapter.ffrnet == "none":
            raise ValueError("align.identity needs align.pack: without FFRNet the sampled face has no known place")
        return self

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, int, int]:
        """(index, first step, end) of the stage that a step belongs to."""
        first = 0
        for index, stage in enumerate(self.stages):
            if step < first + stage.steps:
                return index, first, first + stage.steps
            first += stage.steps
        raise IndexError(step)


def ready_made() -> dict[str, str]:
    """The configurations that come along: name -> YAML text."""
    folder = resources.files("facesnap.training") / "configs"
    files = (file for file in folder.iterdir() if file.name.endswith(".yaml"))
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in sorted(files, key=str)}


def load_config(source: Path | str, changes: dict[str, Any] | None = None) -> TrainingConfig:
    """Read and check a configuration.

    Args:
        source: a YAML file, or the name of a ready-made one.
        changes: {dotted key: value} that replace the file's, as `--set base.model=...` gives them.

    Raises:
        SettingsError: no such file, not YAML, or a key that is missing, unknown or out of its range, by name.
    """
    known = ready_made()
    path = Path(source)
    if str(source) in known:
        text = known[str(source)]
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise SettingsError(
            f"There is no configuration {source}.",
            expected="a YAML file, or one of " + ", ".join(known),
            remedy=f"correct the path, or write a ready-made one with {command('train NAME --print')}",
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(
            f"{source} is not YAML ({error}).", expected="a YAML file", remedy="correct the line that it names"
        ) from error
    if not isinstance(values, dict):
        raise SettingsError(f"{source} holds no sections.", expected="a mapping", remedy="start from a ready-made one")
    for key, value in (changes or {}).items():
        _put(values, key, value)
    return parse(values, str(source))


def parse(values: dict[str, Any], where: str) -> TrainingConfig:
    """Check the values of a configuration; SettingsError names every wrong key."""
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in error.errors()]
        raise SettingsError(
            f"{where}: {'; '.join(wrong)}.",
            expected="the keys of facesnap.training.config",
            remedy="correct these keys",
        ) from error


def _put(values: Any, dotted: str, value: Any) -> None:
    """Set a key; in a list, such as the stages, a number chooses the item: stages.0.losses.identity."""
    *sections, key = dotted.split(".")
    for place, section in enumerate(sections):
        if isinstance(values, dict):
            values = values.setdefault(section, {})
        elif isinstance(values, list) and section.isdecimal() and int(section) < len(values):
            values = values[int(section)]
        else:
            values = None
        if not isinstance(values, dict if place + 1 == len(sections) else (dict, list)):
            raise SettingsError(
                f"{dotted} cannot be set.", expected="a key of a section", remedy="change the file, or name one there"
            )
    values[key] = value
