"""GPUs that cannot do their part, described by plain numbers and by torch's own words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alphagrpo.config import RunConfig, load_config
from alphagrpo.errors import DeviceFull, EnvironmentProblem, UnfitDevice
from alphagrpo.models.unified import ALL_LAYERS
from alphagrpo.policy import devices
from alphagrpo.policy.devices import (
    Device,
    check_capability,
    check_device,
    check_pictures_device,
    check_room,
    computed,
    found_device,
    recomputed_here,
    refuse_without_device,
)

CONFIGS = Path(__file__).parents[3] / "deploy/configs"
H200 = Device(name="NVIDIA H200", capability=(9, 0), memory_bytes=150_754_820_096)
L40S = Device(name="NVIDIA L40S", capability=(8, 9), memory_bytes=48_000_000_000)
H100 = Device(name="NVIDIA H100", capability=(9, 0), memory_bytes=85_520_809_984)
A10 = Device(name="NVIDIA A10", capability=(8, 6), memory_bytes=24_000_000_000)
T4 = Device(name="Tesla T4", capability=(7, 5), memory_bytes=15_800_000_000)
TOLD = (
    "CUDA out of memory. Tried to allocate 4.15 GiB. GPU 0 has a total capacity of 79.15 GiB of "
    "which 1.10 GiB is free. Including non-PyTorch memory, this process has 78.04 GiB memory in "
    "use. Of the allocated memory 70.87 GiB is allocated by PyTorch, and 6.34 GiB is reserved by "
    "PyTorch but unallocated. If reserved but unallocated memory is large try setting ..."
)
"""As torch 2.13 words it."""


class FakeCuda:
    """Stands in for ``torch.cuda`` on a machine without a GPU."""

    def __init__(self, device: Device | None) -> None:
        self._device = device

    def is_available(self) -> bool:
        return self._device is not None

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, which: object) -> SimpleNamespace:
        assert self._device is not None
        major, minor = self._device.capability
        return SimpleNamespace(
            name=self._device.name,
            major=major,
            minor=minor,
            total_memory=self._device.memory_bytes,
        )


def fake_torch(device: Device | None, driver: int = 0) -> SimpleNamespace:
    """Stands in for torch 2.13 built for CUDA 13 on a node with this GPU and driver."""
    return SimpleNamespace(
        cuda=FakeCuda(device),
        version=SimpleNamespace(cuda="13.0"),
        __version__="2.13.0+cu130",
        _C=SimpleNamespace(_cuda_getDriverVersion=lambda: driver),
    )


def test_the_device_is_the_one_that_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch", fake_torch(T4))
    assert found_device() == T4


def test_without_a_device_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch", fake_torch(None, driver=12_080))
    with pytest.raises(UnfitDevice, match=r"knows CUDA 13.0, this node's knows CUDA 12.8"):
        found_device()


@pytest.mark.parametrize(
    ("built_for", "driver", "words"),
    [
        (None, 0, "needs a torch that was built for CUDA, torch 2.13.0 was not"),
        ("13.0", 0, "needs an NVIDIA driver, none answers"),
        ("13.0", 12_020, "needs a driver that knows CUDA 13.0, this node's knows CUDA 12.2"),
        ("12.8", 12_020, "needs a GPU, this process sees none though a driver answers"),
        ("12.8", 13_000, "reserve one with rollout.gpus_per_runner or learner.gpus"),
    ],
)
def test_what_is_wrong_is_one_line_with_a_remedy(
    built_for: str | None, driver: int, words: str
) -> None:
    with pytest.raises(UnfitDevice) as caught:
        refuse_without_device("2.13.0", built_for, driver)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert "; " in message, "the remedy comes last"


def test_bfloat16_asks_for_a_card_that_has_it() -> None:
    check_capability(H100, "bfloat16", "rollout-0")
    check_capability(T4, "float32", "rollout-0")
    with pytest.raises(UnfitDevice) as caught:
        check_capability(T4, "bfloat16", "rollout-0")
    assert str(caught.value) == (
        "model.dtype bfloat16 needs a GPU of compute capability 8.0 or more (A100, H100, H200), "
        "rollout-0 has Tesla T4 of 7.5; place it on another, or set model.dtype to float32"
    )


def test_a_card_that_is_too_small_is_refused_with_the_settings_that_help() -> None:
    check_room(H100, 85.5e9, "learner", "raise rollout.slices", 1.0)
    with pytest.raises(UnfitDevice) as caught:
        check_room(H100, 86e9, "learner", "raise rollout.slices", 1.0)
    assert str(caught.value) == (
        "learner needs about 86.0 GB of GPU memory at its peak, NVIDIA H100 has 85.5 GB; raise "
        "rollout.slices, or take a larger card"
    )
    with pytest.raises(UnfitDevice, match=r"its share of 0.5 of NVIDIA H100 has 42.8 GB"):
        check_room(H100, 43e9, "rollout-1", "raise rollout.slices", 0.5)


def test_a_full_device_says_who_asked_for_how_much_and_what_helps() -> None:
    def full() -> None:
        raise torch.OutOfMemoryError(TOLD)

    with pytest.raises(DeviceFull) as caught:
        computed("rollout-3", "raise rollout.slices", full)
    assert str(caught.value) == (
        "rollout-3 asked its GPU for 4.15 GiB more memory than it holds, of its 79.15 GiB 1.10 GiB "
        "are free; raise rollout.slices, end what else runs on that GPU, and go on with --resume"
    )
    assert isinstance(caught.value, EnvironmentProblem)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_words_of_torch_are_told_without_figures() -> None:
    message = devices.full_message("CUDA error: out of memory", "learner", "raise learner.ranks")
    assert message.startswith("learner asked its GPU for more memory than it holds, it had not")


def test_what_works_and_what_fails_otherwise_are_left_alone() -> None:
    assert computed("learner", "", lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(ZeroDivisionError):
        computed("learner", "", lambda: 1 / 0)


def config_of(*overrides: str) -> RunConfig:
    return load_config(CONFIGS / "bagel-7b-srr.yaml", list(overrides))


def test_a_process_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch", fake_torch(H100))
    config = config_of()
    for role, process in (("rollout-0", "runner"), ("learner", "learner")):
        check_device(config, role, process)
    monkeypatch.setattr(devices, "torch", fake_torch(L40S))
    with pytest.raises(UnfitDevice, match=r"rollout-0 needs about 5\d\.\d GB.*has 48\.0 GB; raise"):
        check_device(config, "rollout-0", "runner")
    with pytest.raises(UnfitDevice, match=r"learner-2 needs about 6\d\.\d GB.*rollout.slices"):
        check_device(config, "learner-2", "learner")
    check_device(config_of("rollout.slices=2", "evaluation.batch_size=7"), "rollout-0", "runner")
    with pytest.raises(UnfitDevice, match=r"its share of 0\.5 of NVIDIA L40S"):
        check_device(config_of("rollout.gpus_per_runner=0.5"), "rollout-0", "runner")
    monkeypatch.setattr(devices, "torch", fake_torch(T4))
    with pytest.raises(UnfitDevice, match=r"compute capability 8\.0"):
        check_device(config, "rollout-0", "runner")


def test_who_draws_for_people_needs_room_for_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of()
    for device, what in (
        (T4, "compute capability"),
        (A10, "for the weights alone, needs about 29"),
    ):
        monkeypatch.setattr(devices, "torch", fake_torch(device))
        with pytest.raises(UnfitDevice, match=what):
            check_pictures_device(config, "this process")
    monkeypatch.setattr(devices, "torch", fake_torch(L40S))
    check_pictures_device(config, "this process")
    monkeypatch.setattr(devices, "torch", fake_torch(None))
    check_pictures_device(config_of("model.device=cpu"), "this process")


def test_on_a_cpu_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch", fake_torch(None))
    check_device(config_of("model.device=cpu"), "rollout-0", "runner")
    check_device(config_of("model.device=auto"), "rollout-0", "runner")
    with pytest.raises(UnfitDevice):
        check_device(config_of(), "rollout-0", "runner")


def test_a_rank_recomputes_as_its_own_card_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def layers(setting: str, device: Device | None = None) -> int:
        monkeypatch.setattr(devices, "torch", fake_torch(device))
        kind = SimpleNamespace(type="cpu" if device is None else "cuda")
        return recomputed_here(config_of(f"learner.recompute={setting}"), kind)

    assert [layers(setting) for setting in ("none", "all", "auto")] == [0, ALL_LAYERS, 0]
    assert layers("auto", H100) > layers("auto", H200) > 0
    assert layers("100", H100) == layers("100") < layers("auto", H100), "a budget is a number"
