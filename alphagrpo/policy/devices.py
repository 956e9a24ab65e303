"""Whether a GPU can do its part of a run, and what is said where it cannot or where it is full.

The rules are functions of plain numbers and texts; the others ask torch what there is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from alphagrpo.config import RunConfig
from alphagrpo.errors import DeviceFull, UnfitDevice
from alphagrpo.models.unified import ALL_LAYERS
from alphagrpo.options import WeightType
from alphagrpo.policy.fit import Process, process_case, recomputed_layers, settings_for_room
from alphagrpo.policy.memory import model_size

T = TypeVar("T")

GB = 1e9
BFLOAT16_CAPABILITY = (8, 0)
"""Compute capability from which products of bfloat16 are the hardware's own."""

FOR_PICTURES = "set model.device to cpu"
"""What helps where only pictures are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU as this process sees it."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    """All that it has."""


def check_device(config: RunConfig, role: str, process: Process) -> None:
    """Refuse a GPU that cannot do a process's part of a run, before anything is loaded on it.

    Args:
        config: of the run; on a CPU nothing is looked at.
        role: of the process, for people.
        process: what it does.

    Raises:
        UnfitDevice: for a GPU, a driver or a torch that the run cannot use.
    """
    device = _fit_device(config, role)
    if device is None:
        return
    case = process_case(config, *model_size(config), process)
    share = device_share(config, process)
    check_room(device, case.peak_bytes, role, settings_for_room(config, process), share)


def check_pictures_device(config: RunConfig, role: str) -> None:
    """The same for a process that draws for people: how many pictures at once is theirs to say, the
    weights must fit.
    """
    device = _fit_device(config, role)
    if device is not None:
        weights = model_size(config)[1].bytes_in(config.model.dtype)
        check_room(device, weights, f"{role}, for the weights alone,", FOR_PICTURES, share=1.0)


def _fit_device(config: RunConfig, role: str) -> Device | None:
    """The GPU of this process, which computes in the run's type; None on a CPU."""
    kind = config.model.device
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return None
    device = found_device()
    check_capability(device, config.model.dtype, role)
    return device


def device_share(config: RunConfig, process: Process) -> float:
    """Of a GPU, that a process reserves; one that says none is alone there, as far as is known."""
    on_runner = process == "runner" or config.learner.on_runners
    gpus = config.rollout.gpus_per_runner if on_runner else config.learner.gpus
    return min(gpus, 1.0) or 1.0


def recomputed_here(config: RunConfig, device: torch.device) -> int:
    """Layers that a rank on ``device`` is to recompute, as ``learner.recompute`` says.

    On a CPU ``auto`` recomputes none: main memory is not a rank's own.
    """
    setting = config.learner.recompute
    if setting in ("none", "all"):
        return 0 if setting == "none" else ALL_LAYERS
    if device.type != "cuda":
        return 0 if setting == "auto" else recomputed_layers(config, *model_size(config), math.inf)
    there = torch.cuda.get_device_properties(device).total_memory * device_share(config, "learner")
    return recomputed_layers(config, *model_size(config), there)


def found_device() -> Device:
    """The GPU that this process computes on.

    Raises:
        UnfitDevice: torch finds none, or cannot use the driver.
    """
    if not torch.cuda.is_available():
        # A torch without CUDA has no such function.
        driver = getattr(torch._C, "_cuda_getDriverVersion", int)()
        refuse_without_device(torch.__version__, torch.version.cuda, driver)
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Device(
        name=properties.name,
        capability=(properties.major, properties.minor),
        memory_bytes=properties.total_memory,
    )


def refuse_without_device(torch_version: str, built_for: str | None, driver: int) -> None:
    """Raise UnfitDevice that says why torch has no GPU.

    Args:
        torch_version: as torch says it.
        built_for: the CUDA version torch was built for, such as ``13.0``; None without CUDA.
        driver: the newest CUDA version the driver knows, as 1000 x major + 10 x minor; 0 where no
            driver answers.
    """
    version = f"torch {torch_version}"
    if built_for is None:
        raise UnfitDevice(
            f"model.device cuda needs a torch that was built for CUDA, {version} was not; install "
            "one that is, or set model.device to cpu"
        )
    if not driver:
        raise UnfitDevice(
            f"model.device cuda needs an NVIDIA driver, none answers on this node ({version}, for "
            f"CUDA {built_for}); install one, place the process on a node that has one, or "
            "set model.device to cpu"
        )
    if driver // 1000 < int(built_for.partition(".")[0]):
        raise UnfitDevice(
            f"{version} needs a driver that knows CUDA {built_for}, this node's knows CUDA "
            f"{driver // 1000}.{driver % 1000 // 10}; update the driver, or install a torch that "
            "was built for that CUDA"
        )
    raise UnfitDevice(
        "model.device cuda needs a GPU, this process sees none though a driver answers; reserve "
        "one with rollout.gpus_per_runner or learner.gpus, look at CUDA_VISIBLE_DEVICES, or set "
        "model.device to cpu"
    )


def check_capability(device: Device, dtype: WeightType, role: str) -> None:
    """Raise UnfitDevice where the GPU does not compute in the weights' type."""
    if dtype == "bfloat16" and device.capability < BFLOAT16_CAPABILITY:
        needed, found = (
            ".".join(map(str, pair)) for pair in (BFLOAT16_CAPABILITY, device.capability)
        )
        raise UnfitDevice(
            f"model.dtype bfloat16 needs a GPU of compute capability {needed} or more (A100, H100, "
            f"H200), {role} has {device.name} of {found}; place it on another, or set model.dtype "
            "to float32"
        )


def check_room(device: Device, needed_bytes: float, role: str, remedies: str, share: float) -> None:
    """Raise UnfitDevice where a GPU has less memory than a process needs at its peak.

    Args:
        device: its GPU.
        needed_bytes: by the arithmetic of :mod:`alphagrpo.policy.fit`.
        role: of the process.
        remedies: settings that make it fit.
        share: of the GPU that the process reserves.
    """
    there = device.memory_bytes * share
    if needed_bytes > there:
        whose = device.name if share == 1.0 else f"its share of {share:g} of {device.name}"
        raise UnfitDevice(
            f"{role} needs about {needed_bytes / GB:.1f} GB of GPU memory at its peak, {whose} has "
            f"{there / GB:.1f} GB; {remedies}, or take a larger card"
        )


def computed(role: str, remedies: str, function: Callable[..., T], *arguments: object) -> T:
    """What ``function`` returns.

    Raises:
        DeviceFull: the GPU had no memory left for it.
    """
    try:
        return function(*arguments)
    except torch.OutOfMemoryError as error:
        raise DeviceFull(full_message(str(error), role, remedies)) from error


_ASKED = re.compile(r"Tried to allocate ([\d.]+ \w+)")
_ROOM = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")


def full_message(told: str, role: str, remedies: str) -> str:
    """One line out of what torch ``told``: who asked for how much, what was free, what helps."""
    asked, room = _ASKED.search(told), _ROOM.search(told)
    more = f"{asked[1]} more" if asked else "more"
    there = f"of its {room[1]} {room[2]} are free" if room else "it had not as much free"
    return (
        f"{role} asked its GPU for {more} memory than it holds, {there}; {remedies}, end what else "
        "runs on that GPU, and go on with --resume"
    )
