"""Parity cases with gradients and transitions: training, SDE steps, a rollout and its replay."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alphagrpo.flow import (
    cps_step,
    euler_step,
    sde_step,
    shifted_times,
    transition_log_prob,
)
from alphagrpo.models.bagel.golden import Golden, Produced
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.bagel.packed import (
    LatentPiece,
    Pack,
    Piece,
    TextPiece,
    VisionPiece,
    build_pack,
)
from alphagrpo.models.bagel.parity_image import guidance_of
from alphagrpo.models.bagel.sampling import guided_velocity
from alphagrpo.models.bagel.training import encode_padded, training_forward


def training(golden: Golden) -> Produced:
    """c7: two packed samples, their losses and gradients."""
    model = golden.model
    pack = build_pack(model, _samples(golden))
    noise = golden["c7.posterior_noise"]
    latents = encode_padded(model, pack.vae_pixels, noise)
    model.zero_grad(set_to_none=True)
    out = training_forward(model, pack, flow_noise=golden["c7.flow_noise"], latents=latents)
    out.loss.backward()
    produced = {
        "c7.padded_latent": latents,
        "c7.last_hidden": out.hidden.detach(),
        "c7.ce_per_token": out.ce_per_token.detach(),
        "c7.mse_elements": out.mse_elements.detach(),
        "c7.mse_per_token": out.mse_elements.detach().mean(dim=1),
        "c7.ce_loss": out.ce_loss.detach(),
        "c7.ce_loss_reweighted": out.ce_loss_reweighted.detach(),
        "c7.mse_loss": out.mse_loss.detach(),
        "c7.loss": out.loss.detach(),
        **_layout(pack),
        **_gradients(golden, "c7"),
    }
    if "c7.grad_norms" in golden:
        produced["c7.grad_norms"] = gradient_norms(golden, "c7.grad_norms")
    model.zero_grad(set_to_none=True)
    return produced


def _samples(golden: Golden) -> list[list[Piece]]:
    def ids(name: str) -> tuple[int, ...]:
        return tuple(golden[name].tolist())

    # The raw time is a random draw of the data pipeline, recorded in its own field only.
    times = golden.expected("c7.packed_timesteps")
    raw = float(times[torch.isfinite(times)][0])
    return [
        [
            VisionPiece(golden["c7.vit_pixels_1"]),
            TextPiece(ids("c7.question_ids")),
            TextPiece(ids("c7.answer_ids"), loss=True),
        ],
        [
            LatentPiece(golden["c7.cond_vae_pixels"]),
            VisionPiece(golden["c7.cond_vit_pixels"]),
            TextPiece(ids("c7.edit_ids")),
            LatentPiece(golden["c7.target_pixels"], raw_time=raw),
        ],
    ]


def _layout(pack: Pack) -> Produced:
    produced = {
        "c7.packed_text_ids": torch.tensor(pack.text_ids),
        "c7.packed_text_indexes": torch.tensor(pack.text_indexes),
        "c7.packed_position_ids": torch.tensor(pack.position_ids),
        "c7.packed_vit_token_indexes": torch.tensor(pack.vit_token_indexes),
        "c7.packed_vae_token_indexes": torch.tensor(pack.vae_token_indexes),
        "c7.packed_vit_position_ids": torch.tensor(pack.vit_position_ids),
        "c7.packed_latent_position_ids": torch.tensor(pack.latent_position_ids),
        "c7.vit_token_seqlens": torch.tensor(pack.vit_token_seqlens),
        "c7.packed_timesteps": torch.tensor(pack.timesteps),
        "c7.mse_loss_indexes": torch.tensor(pack.mse_loss_indexes),
        "c7.ce_loss_indexes": torch.tensor(pack.ce_loss_indexes),
        "c7.packed_label_ids": torch.tensor(pack.label_ids),
        "c7.ce_loss_weights": torch.tensor(pack.ce_loss_weights),
        "c7.sample_lens": torch.tensor(pack.sample_lens),
        "c7.split_lens": torch.tensor(pack.split_lens),
    }
    for i, mask in enumerate(pack.masks()):
        produced[f"c7.mask{i}"] = mask.to(torch.uint8)
    return produced


def _gradient(model: Bagel, name: str) -> Tensor:
    parameter = dict(model.named_parameters())[name]
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _gradients(golden: Golden, case: str) -> Produced:
    """Every ``<case>.grad.<parameter>``; the vectors keep the first rows of large ones."""
    produced = {}
    for match in golden.matching(case + r"\.grad\.(.+)"):
        rows = golden.shape(match[0])[0]
        produced[match[0]] = _gradient(golden.model, match[1])[:rows].clone()
    return produced


def gradient_norms(golden: Golden, name: str) -> Tensor:
    """L2 norms of the current gradients in the order of the names noted at ``name``."""
    names = golden.info[name]["names"]
    return torch.stack([_gradient(golden.model, n).norm() for n in names])


@torch.no_grad()
def steps(golden: Golden) -> Produced:
    """c8: SDE and CPS steps on given tensors, for every kind and noise level among the names."""
    produced: Produced = {}
    for match in golden.matching(r"c8\.(sde|cps)_([\d.]+)\.prev_sample"):
        prefix = match[0].removesuffix(".prev_sample")
        rows = [
            _step(golden, match[1], float(match[2]), index)
            for index in golden["c8.step_index"].tolist()
        ]
        for what in rows[0]:
            produced[f"{prefix}.{what}"] = torch.stack([row[what] for row in rows])
    return produced


def _step(golden: Golden, kind: str, level: float, index: int) -> dict[str, Tensor]:
    times = golden["c8.timesteps"].tolist()
    t, t_next = times[index], times[index + 1]
    x, v, noise = (golden[f"c8.{name}"][None] for name in ("x_t", "v", "noise"))
    if kind == "sde":
        step = sde_step(x, v, t, t_next, noise, noise_level=level, t_second=times[1])
    else:
        step = cps_step(x, v, t, t_next, noise, noise_level=level)
    x_next, mean, std = step

    def log_prob(sample: Tensor) -> Tensor:
        if kind == "cps":
            return -(sample - mean).square().mean()
        return transition_log_prob(sample, mean, std, t_next - t)[0]

    ours = log_prob(x_next)
    # For contrast only: the variant of other models keeps the normaliser of the Gaussian.
    normaliser = torch.log(std * math.sqrt(t - t_next)) + 0.5 * math.log(2 * math.pi)
    return {
        "prev_sample": x_next[0],
        "prev_sample_mean": mean[0],
        "std": std.reshape(()),
        "log_prob": ours,
        "log_prob_other": log_prob(mean + 0.1 * golden["c8.other"]),
        "log_prob_sd3": ours - normaliser if kind == "sde" else ours,
    }


class _Rollout:
    """c8r: one picture with an SDE window, and its replay."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        args = golden.args("c8r.x")
        self.guidance = guidance_of(args)
        self.level = float(args["noise_level"])
        self.times = shifted_times(args["num_timesteps"], args["timestep_shift"])
        self.clock = self.times.tolist()
        at = golden.resolution("c8r.x", "c4.r0")
        self.noise = golden[f"{at}.x_t"][None]
        self.grid = golden.grid(golden[f"{at}.size"])
        begin = int(golden["c8r.begin"])
        self.window = range(begin, begin + int(golden["c8r.window"]))

    def velocity(self, x: Tensor, i: int) -> Tensor:
        branches = self.golden.branches("t2i")
        model = self.golden.model
        return guided_velocity(model, branches, x, self.clock[i], self.grid, self.guidance)

    def transition(self, x: Tensor, v: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Next latents, mean and std of a step of the window."""
        noise = self.golden["c8r.step_noise"][i][None]
        t, t_next = self.clock[i], self.clock[i + 1]
        second = self.clock[1]
        return sde_step(x, v, t, t_next, noise, noise_level=self.level, t_second=second)

    def score(self, x_next: Tensor, mean: Tensor, std: Tensor, i: int) -> Tensor:
        dt = self.clock[i + 1] - self.clock[i]
        return transition_log_prob(x_next, mean, std, dt)[0]


def rollout(golden: Golden) -> Produced:
    """c8r: a rollout with a window, log-probabilities recomputed with gradient, gradient norms."""
    run = _Rollout(golden)
    latents, velocities, log_probs = _drawn(run)
    first, last = run.window[0], run.window[-1]
    produced = {
        "c8r.x": latents[:, 0],
        "c8r.v": velocities[:, 0],
        "c8r.log_probs": log_probs,
        "c8r.window_timesteps": run.times[first : last + 1],
        "c8r.window_latents": latents[first : last + 2, 0],
    }
    recomputed, norms = [], []
    for i in run.window:
        golden.model.zero_grad(set_to_none=True)
        x, x_next = latents[i], latents[i + 1]
        _, mean, std = run.transition(x, run.velocity(x, i), i)
        log_prob = run.score(x_next, mean, std, i)
        log_prob.backward()
        recomputed.append(log_prob.detach())
        if "c8r.grad_norms" in golden:
            norms.append(gradient_norms(golden, "c8r.grad_norms"))
        if i == first:
            produced |= _gradients(golden, "c8r")
    golden.model.zero_grad(set_to_none=True)
    produced["c8r.log_probs_recomputed"] = torch.stack(recomputed)
    if norms:
        produced["c8r.grad_norms"] = torch.stack(norms)
    return produced


@torch.no_grad()
def _drawn(run: _Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """Latents [K + 1, 1, N, C], velocities [K, 1, N, C], the window's log-probabilities."""
    x = run.noise
    latents, velocities, log_probs = [x], [], []
    for i in range(len(run.clock) - 1):
        v = run.velocity(x, i)
        if i in run.window:
            x, mean, std = run.transition(x, v, i)
            log_probs.append(run.score(x, mean, std, i))
        else:
            x = euler_step(x, v, run.clock[i], run.clock[i + 1])
        latents.append(x)
        velocities.append(v)
    return torch.stack(latents), torch.stack(velocities), torch.stack(log_probs)
