"""AlphaGRPO mesh: reinforcement learning for unified multimodal models, as services on Ray."""

__version__ = "0.1.0"
