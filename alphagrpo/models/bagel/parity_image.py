"""Parity cases of drawing: velocities, guidance, whole paths, autoencoder, two samples together."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from alphagrpo.flow import Guidance, guide, shifted_times
from alphagrpo.models.bagel.golden import Golden, Produced, release_order
from alphagrpo.models.bagel.sampling import draw, to_bytes
from alphagrpo.models.unified import Context

RENORMS = ("global", "channel", "text_channel")


def guidance_of(args: dict[str, Any]) -> Guidance:
    """The released sampler's arguments as a :class:`~alphagrpo.flow.Guidance`."""
    return Guidance(
        text_scale=args["cfg_text_scale"],
        image_scale=args["cfg_img_scale"],
        interval=tuple(args.get("cfg_interval", (0.0, 1.0))),
        renorm=args["cfg_renorm_type"],
        renorm_min=args["cfg_renorm_min"],
    )


def _guided(branches: tuple[Tensor, Tensor, Tensor | None], guidance: Guidance) -> Tensor:
    cond, text, image = branches
    return guide(
        cond,
        text,
        image,
        text_scale=guidance.text_scale,
        image_scale=guidance.image_scale,
        renorm=guidance.renorm,
        renorm_min=guidance.renorm_min,
    )


@torch.no_grad()
def velocities(golden: Golden) -> Produced:
    """c4: velocities of every context at several times, and guided ones, per resolution."""
    produced: Produced = {}
    for match in golden.matching(r"(c4\.[^.]+)\.x_t"):
        produced |= _velocities(golden, match[1])
    bounds = _interval(golden)
    if bounds is not None:
        guidance = Guidance(text_scale=2.0, interval=bounds)
        active = [guidance.active(t) for t in golden["c4.t"].tolist()]
        produced["c4.interval_active"] = torch.tensor(active, dtype=torch.uint8)
    return produced


def _velocities(golden: Golden, at: str) -> Produced:
    model, times, tokens = golden.model, golden["c4.t"], golden[f"{at}.x_t"]
    grid = golden.grid(golden[f"{at}.size"])
    count = len(times)
    x = tokens.expand(count, -1, -1)

    def velocity(context: Context) -> Tensor:
        return model.velocity(context.expand(count), x, times, grid)

    edit = golden.edit
    inputs = model.latent_inputs(tokens[None], times[-1:], grid)
    produced = {
        f"{at}.t2i_cond": velocity(golden.prompt),
        f"{at}.t2i_cond_position_ids": golden.prompt.position.expand(len(tokens) + 2),
        f"{at}.t2i_cond_llm_in_last_t": release_order(
            torch.cat([model.markers(1), inputs], dim=1)[0]
        ),
        f"{at}.t2i_uncond": velocity(model.empty_context(1)),
        f"{at}.edit_cond": velocity(edit.full),
        f"{at}.edit_cfgtext": velocity(edit.after_vision),
        f"{at}.edit_cfgimg": velocity(edit.text_only),
    }
    branches: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {
        "edit": (
            produced[f"{at}.edit_cond"],
            produced[f"{at}.edit_cfgtext"],
            produced[f"{at}.edit_cfgimg"],
        ),
        # Without images the image branch is the full context.
        "t2i": (
            produced[f"{at}.t2i_cond"],
            produced[f"{at}.t2i_uncond"],
            produced[f"{at}.t2i_cond"],
        ),
    }
    return produced | _all_guided(golden, at, branches)


def _all_guided(
    golden: Golden, at: str, branches: dict[str, tuple[Tensor, Tensor, Tensor | None]]
) -> Produced:
    produced = {}
    for match in golden.matching(re.escape(at) + r"\.(edit|t2i)_.*"):
        args = golden.args(match[0])
        if args:
            produced[match[0]] = _guided(branches[match[1]], guidance_of(args))
    name = f"{at}.edit_interval"
    like = re.search(r"as (\S+) but", golden.meaning(name)) if name in golden else None
    bounds = _interval(golden)
    if like is not None and bounds is not None:
        source = golden.args(f"{at}.{like[1]}")
        guidance = guidance_of(source | {"cfg_interval": bounds})
        inside = _guided(branches["edit"], guidance)
        active = torch.tensor([guidance.active(t) for t in golden["c4.t"].tolist()])
        produced[name] = torch.where(active[:, None, None], inside, branches["edit"][0])
    return produced


def _interval(golden: Golden) -> tuple[float, float] | None:
    """Bounds of the interval case, noted as ``lo=t[i], hi=t[j]``."""
    for match in golden.matching(r"c4\..*_interval"):
        bounds = re.search(r"lo=t\[(\d+)\].*hi=t\[(\d+)\]", golden.meaning(match[0]))
        if bounds:
            times = golden["c4.t"].tolist()
            return times[int(bounds[1])], times[int(bounds[2])]
    return None


@torch.no_grad()
def formula(golden: Golden) -> Produced:
    """c4f: the guidance formula on given velocities."""
    cond, image = golden["c4f.v_cond"][None], golden["c4f.v_img"][None]
    texts = [golden["c4f.v_text"][None], golden["c4f.v_text_b"][None]]
    produced = {}
    for renorm in RENORMS:
        rows = []
        for branch, text_scale, image_scale, renorm_min in golden["c4f.cases"].tolist():
            guidance = Guidance(
                text_scale=text_scale,
                image_scale=image_scale,
                renorm=renorm,  # type: ignore[arg-type]
                renorm_min=renorm_min,
            )
            rows.append(_guided((cond, texts[int(branch)], image), guidance)[0])
        produced[f"c4f.{renorm}"] = torch.stack(rows)
    return produced


@torch.no_grad()
def paths(golden: Golden) -> Produced:
    """c5: whole sampling runs, from noise to bytes."""
    produced: Produced = {}
    for match in golden.matching(r"c5\.([^.]+)\.x"):
        produced |= _path(golden, match[1])
    return produced


def _path(golden: Golden, run: str) -> Produced:
    model, args = golden.model, golden.args(f"c5.{run}.x")
    grid = golden.grid(golden[f"c5.{run}.size"])
    times = shifted_times(args["num_timesteps"], args["timestep_shift"])
    noise = golden[f"c5.{run}.noise"][None]
    path = draw(model, golden.branches(run), noise, times, grid, guidance_of(args))
    final = path.latents[-1]
    pixels = model.decode_latents(final, grid)
    return {
        f"c5.{run}.timesteps": times[:-1],
        f"c5.{run}.x": path.latents[:, 0],
        f"c5.{run}.v": path.velocities[:, 0],
        f"c5.{run}.cfg_active": torch.tensor(path.guided, dtype=torch.uint8),
        f"c5.{run}.latent_chw": model.tokens_to_latents(final, grid),
        f"c5.{run}.pixels": pixels,
        f"c5.{run}.uint8": to_bytes(pixels)[0],
    }


@torch.no_grad()
def autoencoder(golden: Golden) -> Produced:
    """c6: the autoencoder on a batch."""
    model = golden.model.autoencoder
    return {
        "c6.decoded": model.decode(golden["c6.latent"]),
        "c6.moments": model.moments(golden["c6.pixels"]),
        "c6.encoded": model.encode(golden["c6.pixels"], golden["c6.posterior_noise"]),
    }


@torch.no_grad()
def together(golden: Golden) -> Produced:
    """c9: two samples of different lengths; their texts are read in one padded batch."""
    model = golden.model
    rows = [golden.framed(golden[name])[0] for name in ("c1.prompt_ids", "c9.prompt_ids_b")]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    context, _ = model.read_text(model.empty_context(len(rows)), ids, lengths)
    produced = {}
    pictures = {
        "a": ("c2.pixels", golden.resolution("c9.v_a", "c4.r0")),
        "b": ("c9.pixels_b", golden.resolution("c9.v_b", "c4.r1")),
    }
    for i, (which, (pixels, at)) in enumerate(pictures.items()):
        own = model.read_pixels(context.rows(torch.tensor([i])), golden[pixels][None])
        grid = golden.grid(golden[f"{at}.size"])
        t = torch.tensor([_time_noted(golden)])
        produced[f"c9.v_{which}"] = model.velocity(own, golden[f"{at}.x_t"][None], t, grid)[0]
    return produced


def _time_noted(golden: Golden) -> float:
    """The time of c9, noted in a tensor's meaning as ``t=0.6``; 0.6 where it is not."""
    for match in golden.matching(r"c9\..*"):
        time = re.search(r"\bt=([\d.]*\d)", golden.meaning(match[0]))
        if time:
            return float(time[1])
    return 0.6
