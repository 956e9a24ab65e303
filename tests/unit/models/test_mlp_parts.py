"""An MLP in parts: its bits do not depend on what is computed again, which is done only once."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alphagrpo.models.bagel import mlp_parts
from alphagrpo.models.bagel.mlp_parts import in_parts
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.unified import ALL_LAYERS
from alphagrpo.policy.trainable import add_adapters, trainable_parameters
from tests.fakes import make_config

WIDTH = 6


class CountingMlp(nn.Sequential):
    """Remembers how many rows each call had."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(WIDTH, 9), nn.Tanh(), nn.Linear(9, WIDTH))
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(x.shape[0])
        return super().forward(x)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp_parts, "PART_TOKENS", 4)


def gradients(mlp: nn.Module, x: Tensor, *, recompute: bool) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = in_parts(mlp, x, recompute=recompute)
    out.square().sum().backward()
    found = [x.grad, *(p.grad for p in mlp.parameters() if p.requires_grad)]
    mlp.zero_grad(set_to_none=True)
    return found


def test_few_tokens_are_not_split() -> None:
    mlp = CountingMlp()
    in_parts(mlp, torch.randn(2, 2, WIDTH), recompute=True)
    assert mlp.calls == [2], "as they come"


@pytest.mark.parametrize("trained", [(0, 1, 2, 3), (3,), ()])
def test_gradients_of_recomputed_parts_have_the_same_bits(trained: tuple[int, ...]) -> None:
    mlp, x = CountingMlp(), torch.randn(3, 5, WIDTH)
    for index, parameter in enumerate(mlp.parameters()):
        parameter.requires_grad_(index in trained)
    kept, again = (gradients(mlp, x, recompute=recompute) for recompute in (False, True))
    assert len(kept) == 1 + len(trained)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert mlp.calls == [4, 4, 4, 3] * 2 + [3, 4, 4, 4], "the last part is the first one back"
    torch.testing.assert_close(in_parts(mlp, x, recompute=False), mlp(x))


def test_inside_a_checkpoint_no_part_is_computed_a_third_time() -> None:
    mlp, x = CountingMlp(), torch.randn(3, 5, WIDTH, requires_grad=True)

    def layer(x: Tensor) -> Tensor:
        inner = x.tanh()
        return x + in_parts(mlp, inner, recompute=True)

    expected = gradients_of(layer(x), x)
    mlp.calls.clear()
    found = gradients_of(checkpoint(layer, x, use_reentrant=False), x)
    assert sorted(mlp.calls) == sorted([4, 4, 4, 3] * 2)
    assert torch.equal(found, expected)


def gradients_of(out: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(out.square().sum(), x)[0]


def test_nothing_is_kept_once_it_went_back() -> None:
    mlp, x = CountingMlp(), torch.randn(3, 5, WIDTH, requires_grad=True)
    inner = x.tanh()
    alive = weakref.ref(inner.untyped_storage())
    loss = in_parts(mlp, inner, recompute=True).square().sum()
    del inner
    loss.backward()
    gc.collect()
    assert alive() is None, "though the loss, and so its graph, is still there"


@pytest.mark.parametrize("trainable", ["lora", "experts"])
def test_a_model_has_the_same_gradient_however_many_layers_recompute(
    model: Bagel, trainable: str
) -> None:
    config = make_config(model={"trainable": trainable}).model
    if trainable == "lora":
        add_adapters(model, config.lora, 0)
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                nn.init.normal_(parameter, std=0.1)
    learnt = trainable_parameters(model, config.trainable)
    with torch.no_grad():
        text = torch.tensor([[1, 7, 8, 2]] * 3)
        context, _ = model.read_text(model.empty_context(3), text, torch.tensor([4, 3, 4]))

    def found(layers: int) -> list[Tensor | None]:
        model.set_recompute(layers)
        for _ in range(2):  # the second on top of the first, as window steps are
            t = torch.full((3,), 0.5)
            v = model.velocity(context, torch.ones(3, 6, model.latent_channels), t, (2, 3))
            v.square().sum().backward()
        grads = [p.grad for p in learnt.values()]
        model.zero_grad(set_to_none=True)
        return grads

    kept = found(0)
    assert sum(grad is not None and bool(grad.any()) for grad in kept) > 10
    for layers in (1, ALL_LAYERS):
        pairs = zip(kept, found(layers), strict=True)
        assert all(a is b is None or torch.equal(a, b) for a, b in pairs)
