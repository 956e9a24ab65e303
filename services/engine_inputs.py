"""Prompts and pictures as vLLM takes them; prompts about one picture share what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alphagrpo.judging.cache import LruCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Input = dict[str, Any]
"""What vLLM's renderer makes of a prompt: token ids, placeholders, the prepared picture."""

_TOKENS_KEPT = 4096


class Head(NamedTuple):
    """The part of a prompt up to its picture's end, before and after vLLM put the picture in."""

    plain: list[int]
    expanded: list[int]

    @classmethod
    def of(cls, plain: list[int], rendered: Input) -> Head:
        """The head of a prompt of token ids ``plain`` that was ``rendered`` with its picture.

        What follows the picture is the same before and after, so the tail is the longest common
        end that does not reach into the picture's placeholders.
        """
        expanded = rendered["prompt_token_ids"]
        placeholders = (p for places in rendered["mm_placeholders"].values() for p in places)
        end = max(place.offset + place.length for place in placeholders)
        most = min(len(expanded) - end, len(plain))
        tail = next((i for i in range(most) if plain[-1 - i] != expanded[-1 - i]), most)
        return cls(plain[: len(plain) - tail], expanded[: len(expanded) - tail])

    def continued(self, plain: list[int]) -> list[int] | None:
        """Token ids of another prompt with the same head, expanded; None where its head differs."""
        if plain[: len(self.plain)] != self.plain:
            return None
        return self.expanded + plain[len(self.plain) :]


class EngineInputs:
    """Makes the inputs of one engine."""

    def __init__(self, llm: Any) -> None:
        self._config, self._renderer = llm.model_config, llm.renderer
        self._token_ids: LruCache[list[int]] = LruCache(_TOKENS_KEPT)

    async def one(
        self, prompt: str, pixels: NDArray[np.uint8] | None = None, image_key: str | None = None
    ) -> Input:
        """A prompt, with its picture [H, W, 3] where it has one."""
        if pixels is None:
            return await self._rendered({"prompt": prompt})
        return await self._with_picture(self._tokens(prompt), _image(pixels), image_key)

    async def about(
        self, prompts: Sequence[str], pixels: NDArray[np.uint8], image_key: str
    ) -> list[Input]:
        """Prompts about one picture, which is prepared once and sent to the engine once."""
        image = _image(pixels)
        plain = [self._tokens(prompt) for prompt in prompts]
        first = await self._with_picture(plain[0], image, image_key)
        head, shared = Head.of(plain[0], first), self._without_data(first)
        inputs = [first]
        for ids in plain[1:]:
            expanded = head.continued(ids)
            inputs.append(
                await self._with_picture(ids, image, image_key)
                if expanded is None
                else {**shared, "prompt_token_ids": expanded}
            )
        return inputs

    def _tokens(self, prompt: str) -> list[int]:
        """Token ids by vLLM's own rules. Raises ValueError for too many."""
        ids = self._token_ids.get((prompt,))
        if ids is None:
            renderer = self._renderer
            tokenized = renderer.tokenize_prompt(
                {"prompt": prompt}, renderer.default_cmpl_tok_params
            )
            ids = tokenized["prompt_token_ids"]
            self._token_ids.put((prompt,), ids)
        return ids

    async def _with_picture(self, ids: list[int], image: Any, image_key: str | None) -> Input:
        return await self._rendered(
            {
                "prompt_token_ids": ids,
                "multi_modal_data": {"image": image},
                # With a name vLLM need not hash the picture, and prepares and encodes it once.
                "multi_modal_uuids": {"image": image_key},
            }
        )

    async def _rendered(self, prompt: dict[str, Any]) -> Input:
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        parsed = parse_model_prompt(self._config, prompt)
        (rendered,) = await self._renderer.render_cmpl_async([parsed])
        return dict(rendered)

    def _without_data(self, rendered: Input) -> Input:
        """``rendered`` for the prompts that follow: the engine keeps the picture by its name.

        That is what vLLM's own cache of pictures makes of a second prompt. Where that cache is
        off, or is not one that the engine keeps a copy of, the picture goes with every prompt.
        """
        from vllm.multimodal.cache.lru import LruKeyReplicatedSenderCache

        cache = self._renderer.mm_processor_cache
        if not isinstance(cache, LruKeyReplicatedSenderCache):
            return rendered
        kept = {
            modality: [
                None if cache.is_cached_item(name) else item
                for name, item in zip(rendered["mm_hashes"][modality], items, strict=True)
            ]
            for modality, items in rendered["mm_kwargs"].items()
        }
        return {**rendered, "mm_kwargs": kept}


def _image(pixels: NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)
