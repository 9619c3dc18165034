"""FFRNet in diffusers' own pipelines: what the speed settings compute with real samplers, and SDXL."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from facesnap.attach import ControlConditioning, ControlPictures, ControlView, Speed
from facesnap.demo import untrained
from facesnap.demo.untrained import draw
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.models.fidelity import FFRNet
from tests.networks import HEAD, ffrnet_for, redraw

PICTURE = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)


def _draw(view: ControlView) -> ControlPictures:
    resized = Image.fromarray(PICTURE).resize((view.width, view.height), Image.Resampling.NEAREST)
    return ControlPictures(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255)


def _person(net: FFRNet, context: int, seed: int = 1) -> ControlConditioning:
    cond, uncond = torch.randn(2, 1, 5, context, generator=torch.Generator().manual_seed(seed))
    return ControlConditioning(
        net, net.project_tokens(cond), _draw, net.project_tokens(uncond), face=(0.3, 0.2, 0.6, 0.5)
    )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> DiffusersHost:
    return DiffusersHost.load(untrained.save_pipeline(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def person(host: DiffusersHost) -> ControlConditioning:
    return _person(untrained.make_ffrnet(host.unet, 22), untrained.CONTEXT)


def _count(
    host, person: ControlConditioning, speed: Speed, cfg: float = 7.0, **kwargs
) -> tuple[int, list[int], np.ndarray]:
    """UNet calls, FFRNet's rows call by call, and the picture."""
    calls, rows = [], []
    handles = [
        host.unet.register_forward_pre_hook(lambda _, args: calls.append(1)),
        person.net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0]))),
    ]
    try:
        sampling = Sampling("a person", size=(64, 64), cfg=cfg, **kwargs)
        image = host.sample(sampling, [], controls=[person], speed=speed)[0]
    finally:
        for handle in handles:
            handle.remove()
    return len(calls), rows, np.asarray(image, dtype=int)


@pytest.mark.parametrize(
    ("sampler", "unet_calls", "reused"),
    # Steps 2..7 of 10 may reuse, every second one of them does: 3 sigmas. Heun sees each of them twice.
    [("DDIM", 10, 3), ("Euler", 10, 3), ("DPM++ 2M Karras", 10, 3), ("Heun", 19, 6)],
)
def test_balanced_reuses_in_the_middle_of_a_real_sampling(host, person, sampler, unet_calls, reused) -> None:
    calls, rows, exact = _count(host, person, Speed.EXACT, sampler=sampler, steps=10)
    assert calls == unet_calls and rows == [2] * unet_calls  # uncond and cond, every call
    calls, rows, balanced = _count(host, person, Speed.BALANCED, sampler=sampler, steps=10)
    assert calls == unet_calls and rows == [1] * (unet_calls - reused)
    assert np.abs(exact - balanced).mean() > 0.1  # it is not the same, and says so
    bare = np.asarray(host.sample(Sampling("a person", sampler=sampler, steps=10, size=(64, 64)), [])[0], dtype=int)
    assert np.abs(bare - exact).mean() > 1 and np.abs(bare - balanced).mean() > 1


def test_eight_steps_compute_every_one(host, person) -> None:
    for sampler, calls in (("DDIM", 8), ("Heun", 15)):  # Heun's 15 calls are 8 sigmas
        assert _count(host, person, Speed.BALANCED, sampler=sampler, steps=8)[:2] == (calls, [1] * calls)


def test_without_guidance_there_are_cond_rows_only(host, person) -> None:
    assert _count(host, person, Speed.EXACT, cfg=1.0, steps=3)[1] == [1, 1, 1]


def test_fast_computes_less_area(host, person) -> None:
    areas: list[tuple[int, ...]] = []
    small = replace(person, face=(0.4, 0.3, 0.6, 0.5))
    handle = person.net.register_forward_pre_hook(lambda _, args: areas.append(tuple(args[0].shape[-2:])))
    host.sample(Sampling("a person", steps=2, size=(256, 256)), [], controls=[small], speed=Speed.FAST)
    handle.remove()
    assert areas == [(16, 16)] * 2  # of latents of 32 x 32


def test_windows_count_steps(host, person) -> None:
    late = replace(person, start=0.5)
    assert _count(host, late, Speed.EXACT, steps=6)[1] == [2] * 3


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionXLPipeline:
    """A tiny SDXL pipeline: two text encoders, size ids, no attention in the first level."""
    folder = untrained.save_pipeline(tmp_path_factory.mktemp("donor"))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=16, bos_token_id=len(tokenizer) - 2, eos_token_id=len(tokenizer) - 1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, layers_per_block=2, cross_attention_dim=64, norm_num_groups=32, block_out_channels=(32, 64, 64),
        attention_head_dim=(2, 4, 4), transformer_layers_per_block=(1, 2, 2), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 6 * 8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=32, layers_per_block=1,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=draw(vae, 0), text_encoder=draw(CLIPTextModel(text), 1), tokenizer=tokenizer, tokenizer_2=tokenizer,
        text_encoder_2=draw(CLIPTextModelWithProjection(text), 2), unet=redraw(unet, 3).eval(), add_watermarker=False,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False),
    )  # fmt: skip


def test_sdxl_pipelines_give_ffrnet_their_vector(sdxl) -> None:
    """Against diffusers' own SDXL ControlNet pipeline, whose ControlNet sees the prompt: there, so does FFRNet."""
    host = DiffusersHost(sdxl, "tiny xl")
    assert host.topology.base == "sdxl"
    net = ffrnet_for(sdxl.unet)
    assert net.config.adm_dim == 16 + 6 * 8 and net.config.head_dim == HEAD
    sampling = Sampling("a person", sampler="DDIM", steps=3, size=(128, 128), cfg=4.0, seed=5)
    prompts = sdxl.encode_prompt("a person", negative_prompt="")[:2]  # cond, uncond
    cond, uncond = (net.project_tokens(prompt) for prompt in prompts)
    person = ControlConditioning(net, cond, _draw, uncond)
    bare = np.asarray(host.sample(sampling, [])[0], dtype=int)
    ours = np.asarray(host.sample(sampling, [], controls=[person], speed=Speed.EXACT)[0], dtype=int)
    donor = ControlNetModel.from_unet(sdxl.unet)
    donor.load_state_dict(net.state_dict())
    reference = StableDiffusionXLControlNetPipeline(**sdxl.components, controlnet=donor.eval(), add_watermarker=False)
    reference.set_progress_bar_config(disable=True)
    theirs = reference(
        "a person", negative_prompt="", image=Image.fromarray(PICTURE), num_inference_steps=3, guidance_scale=4.0,
        width=128, height=128, generator=[torch.Generator("cpu").manual_seed(5)], controlnet_conditioning_scale=1.0,
    ).images[0]  # fmt: skip
    assert np.abs(ours - np.asarray(theirs, dtype=int)).max() <= 2
    assert np.abs(ours - bare).mean() > 5
    balanced = np.asarray(host.sample(sampling, [], controls=[person])[0], dtype=int)
    assert np.abs(balanced - bare).mean() > 1
