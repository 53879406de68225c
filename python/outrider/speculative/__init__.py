"""Attach speculative-decoding drafts to models of transformers.

    import outrider.speculative as mtsp
    mtsp.convert(model, [("eagle", mtsp.EAGLE3_DEFAULT_CFG["config"])])

The names are those of `modelopt.torch.speculative`.
"""

from typing import Any

from outrider.errors import OutriderError
from outrider.speculative import config
from outrider.speculative.config import EagleConfig, MedusaConfig, ModeConfig
from outrider.speculative.conversion import convert
from outrider.speculative.output import SpeculativeOutput, expected_acceptance_length
from outrider.speculative.registry import SpeculativeDecodingModeRegistry, modes, plugins

EAGLE1_DEFAULT_CFG: dict[str, Any]
EAGLE3_DEFAULT_CFG: dict[str, Any]
EAGLE_MTP_DEFAULT_CFG: dict[str, Any]

__all__ = [
    "EAGLE1_DEFAULT_CFG",
    "EAGLE3_DEFAULT_CFG",
    "EAGLE_MTP_DEFAULT_CFG",
    "EagleConfig",
    "MedusaConfig",
    "ModeConfig",
    "OutriderError",
    "SpeculativeDecodingModeRegistry",
    "SpeculativeOutput",
    "config",
    "convert",
    "expected_acceptance_length",
    "modes",
    "plugins",
]


def __getattr__(name: str) -> Any:
    if name.endswith("_DEFAULT_CFG"):
        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
