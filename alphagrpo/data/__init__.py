"""Where prompts come from."""

from alphagrpo.data.prompts import check_source, load_heldout, load_prompts, sort_of

__all__ = ["check_source", "load_heldout", "load_prompts", "sort_of"]
