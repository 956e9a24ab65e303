"""The run config: one YAML file, validated without torch or ray."""

from alphagrpo.config.load import load_config, parse_config
from alphagrpo.config.schema import RunConfig

__all__ = ["RunConfig", "load_config", "parse_config"]
