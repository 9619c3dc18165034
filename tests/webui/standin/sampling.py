"""The hosts' sampling around a real tiny UNet: the rows of its calls, the callbacks, the ways to end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

LOADED = "models/Stable-diffusion/miniature.safetensors"
Truth = list[tuple[int, bool]]  # (picture, is cond) of each row of a UNet call


class Interrupted(Exception):
    """The hosts' InterruptedException."""


class Wrapped(nn.Module):
    """A k-diffusion denoiser: calls the UNet of the model that is loaded now."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = [host]  # in a list: no submodule, no cycle of modules

    @property
    def inner_model(self) -> Any:
        return self.host[0].modules.shared.sd_model

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor, truth: Truth) -> Tensor:
        host = self.host[0]
        host.truth = truth
        return host.unet()(x, torch.full((len(x),), 400, device=x.device), context=cond)


class Host:
    """What both stand-ins share; `steps_of` is the denoiser."""

    def __init__(self, modules: Any) -> None:
        self.modules = modules
        self.truth: Truth = []
        self.calls: list[Truth] = []
        self.before_call: Any = None  # planted failures, foreign calls
        self.sampling: Tensor | None = None  # the latents of the sampling that runs
        self.preserved: list[int] = []  # bytes that Forge was asked to preserve, sampling by sampling

    def unet(self) -> nn.Module:
        raise NotImplementedError

    def load(self, unet: nn.Module) -> None:
        raise NotImplementedError

    def step(self, p: Processing, denoiser: Any, x: Tensor) -> Tensor:
        raise NotImplementedError

    def sigmas(self, steps: int) -> Tensor:
        return torch.linspace(10, 0, steps + 1)

    def begin_pass(self, p: Processing, x: Tensor) -> None:
        """What the host does between the making of the noise and the first step."""
        p.before_every_sampling(x)

    def announce(self, denoiser: Any, x: Tensor, cond: Any, uncond: Any) -> None:
        params = SimpleNamespace(x=x, sigma=denoiser.sigma, text_cond=cond, text_uncond=uncond, denoiser=denoiser)
        self.modules.script_callbacks.cfg_denoiser_callback(params)

    def watch(self, unet: nn.Module) -> Any:
        """Called before each UNet call by a hook of the tests."""
        self.calls.append(self.truth)
        if self.before_call is not None:
            self.before_call(len(self.calls), unet)


class A1111Host(Host):
    def unet(self) -> nn.Module:
        return self.modules.shared.sd_model.model.diffusion_model

    def load(self, unet: nn.Module) -> None:
        self.modules.shared.sd_model = SimpleNamespace(
            model=SimpleNamespace(diffusion_model=unet), sd_checkpoint_info=SimpleNamespace(filename=LOADED)
        )

    def step(self, p: Processing, denoiser: Any, x: Tensor) -> Tensor:
        opts, pictures = self.modules.shared.opts, len(x)
        cond = torch.cat([torch.cat(prompts) for prompts in p.conds])  # image-major, AND adjacent
        uncond = p.uncond.expand(pictures, *p.uncond.shape[1:])
        repeats = [len(prompts) for prompts in p.conds]
        owners = [i for i, n in enumerate(repeats) for _ in range(n)]
        rows: Truth = [(i, True) for i in owners] + [(i, False) for i in range(pictures)]
        x_in = torch.cat([x[owners], x])
        self.announce(denoiser, x_in, cond, uncond)
        size = pictures
        if p.skip_uncond:
            x_in, rows, contexts = x_in[:-pictures], rows[:-pictures], [cond]
            chunks = [slice(0, len(cond))]
        elif cond.shape[1] == uncond.shape[1]:
            contexts = [torch.cat([cond, uncond])]
            whole = len(x_in) if opts.batch_cond_uncond else size
            chunks = [slice(a, min(a + whole, len(x_in))) for a in range(0, len(x_in), whole)]
        else:
            contexts = [cond, uncond]
            size *= 2 if opts.batch_cond_uncond else 1
            chunks = [slice(a, min(a + size, len(cond))) for a in range(0, len(cond), size)]
            chunks.append(slice(len(cond), len(x_in)))
        parts = []
        for part in chunks:
            context = contexts[0][part] if part.start < len(contexts[0]) else contexts[-1]
            parts.append(denoiser.inner_model(x_in[part], None, context, rows[part]))
        return combine(torch.cat(parts), rows, pictures, p.cfg)


class ForgeObjects:
    def __init__(self, unet: Any) -> None:
        self.unet = unet

    def shallow_copy(self) -> ForgeObjects:
        return ForgeObjects(self.unet)


class ForgeHost(Host):
    neo = False  # Neo says the list of sigmas

    def unet(self) -> nn.Module:
        return self.modules.shared.sd_model.forge_objects.unet.model.diffusion_model

    def load(self, unet: nn.Module) -> None:
        from backend import memory_management
        from backend.patcher.base import UnetPatcher

        memory_management.unload_all_models()
        model = nn.Module()
        model.diffusion_model, model.computation_dtype = ForgeCall(unet), next(unet.parameters()).dtype
        objects = ForgeObjects(UnetPatcher(model, memory_management.device, torch.device("cpu")))
        self.modules.shared.sd_model = SimpleNamespace(
            forge_objects=objects, forge_objects_after_applying_lora=objects.shallow_copy(),
            sd_checkpoint_info=SimpleNamespace(filename=LOADED),
        )  # fmt: skip
        if self.sampling is not None:  # a refiner
            self.prepare(self.sampling)

    def begin_pass(self, p: Processing, x: Tensor) -> None:
        for _ in range(2 if p.is_hr_pass else 1):  # the first round of a hires pass is discarded
            model = self.modules.shared.sd_model
            model.forge_objects = model.forge_objects_after_applying_lora.shallow_copy()
            p.before_every_sampling(x)
        self.prepare(x)
        if self.neo:
            model.forge_objects.unet.model_options["transformer_options"]["sampling_sigmas"] = self.sigmas(p.steps)

    def prepare(self, x: Tensor) -> None:
        from backend import memory_management

        unet = self.modules.shared.sd_model.forge_objects.unet
        self.preserved.append(unet.extra_preserved_memory_during_sampling)
        memory_management.load_models_gpu(
            [unet, *unet.extra_model_patchers_during_sampling], unet.memory_required(x.shape), self.preserved[-1]
        )

    def step(self, p: Processing, denoiser: Any, x: Tensor) -> Tensor:
        pictures = len(x)
        self.announce(denoiser, x, p.conds, None if p.skip_uncond else p.uncond)
        depth = max(map(len, p.conds))
        runs = [(torch.cat([prompts[min(n, len(prompts) - 1)] for prompts in p.conds]), 0) for n in range(depth)]
        if not p.skip_uncond:
            runs.append((p.uncond.expand(pictures, *p.uncond.shape[1:]), 1))
        lengths = [context.shape[1] for context, _ in runs]
        groups = [runs] if max(lengths) <= 4 * min(lengths) else [[run] for run in runs]
        outs, rows = [], []
        for group in groups:
            chunks = group[::-1]  # uncond first, conds in reverse
            longest = max(context.shape[1] for context, _ in group)
            contexts = [c.repeat(1, -(-longest // c.shape[1]), 1)[:, :longest] for c, _ in chunks]
            kinds = [kind for _, kind in chunks]
            truth: Truth = [(i, kind == 0) for kind in kinds for i in range(pictures)]
            self.truth = truth
            n = len(chunks)
            outs.append(
                self.unet()(
                    x.repeat(n, 1, 1, 1), torch.full((n * pictures,), 400, device=x.device),
                    context=torch.cat(contexts), control=None,
                    transformer_options={"cond_or_uncond": kinds, "sigmas": torch.ones(pictures)},
                )
            )  # fmt: skip
            rows += truth
        return combine(torch.cat(outs), rows, pictures, p.cfg)


class ForgeCall(nn.Module):
    """The tiny UNet under Forge's calling convention."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.inner = [unet]  # in a list: its modules are reached under the names below
        for name, module in unet.named_children():
            setattr(self, name, module)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, control: Any, transformer_options: Any) -> Tensor:
        return self.inner[0](x, timesteps, context=context)


def combine(out: Tensor, rows: Truth, pictures: int, cfg: float) -> Tensor:
    """Classifier-free guidance over whatever rows there were -> (pictures, 4, h, w)."""
    results = []
    for picture in range(pictures):
        cond = torch.stack([out[i] for i, row in enumerate(rows) if row == (picture, True)]).mean(0)
        uncond = [out[i] for i, row in enumerate(rows) if row == (picture, False)]
        results.append(uncond[0] + cfg * (cond - uncond[0]) if uncond else cond)
    return torch.stack(results)


class Processing:
    """A processing object: `sample` makes one pass, or two with hires."""

    def __init__(self, host: Host, conds: list[list[Tensor]], uncond: Tensor, **more: Any) -> None:
        self.host, self.conds, self.uncond = host, conds, uncond
        self.cfg, self.steps, self.enable_hr, self.is_hr_pass, self.skip_uncond = 3.0, 4, False, False, False
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: list[str] = []
        self.before_step: Any = None
        self.before_every_sampling: Any = lambda x: None
        self.between_passes: Any = lambda: None
        self.size, self.device = 8, torch.device("cpu")
        self.sampler: Any = lambda model, x, sigmas: x
        self.left_out: Any = lambda sigma: False  # an accelerator that keeps the denoiser from being called
        vars(self).update(more)

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        noise = torch.randn(len(self.conds), 4, self.size, self.size, generator=torch.manual_seed(1))
        x = self._pass(noise.to(self.device))
        if self.enable_hr:
            self.between_passes()
            self.is_hr_pass = True
            x = self._pass(nn.functional.interpolate(x, scale_factor=2))
            self.is_hr_pass = False
        return x

    def _pass(self, x: Tensor) -> Tensor:
        extra = {"cond": SimpleNamespace(batch=self.conds)}
        sampler = SimpleNamespace(sampler_extra_args=extra, func=self.sampler)
        denoiser = SimpleNamespace(
            p=self, step=0, steps=self.steps, total_steps=self.steps, sampler=sampler, inner_model=Wrapped(self.host)
        )
        state = self.host.modules.shared.state
        outer, self.host.sampling = self.host.sampling, x
        self.host.begin_pass(self, x)
        try:
            for sigma in self.host.sigmas(self.steps).tolist()[:-1]:
                denoiser.sigma = torch.full((len(x),), sigma)
                if self.left_out(sigma):
                    continue
                if state.interrupted or state.skipped:
                    raise Interrupted
                if self.before_step is not None:  # the refiner switches models here, before the callback
                    self.before_step(denoiser)
                x = x + 0.1 * self.host.step(self, denoiser, x)
                denoiser.step += 1
        except Interrupted:
            pass
        finally:
            self.host.sampling = outer
        return x
