"""What is installed: modes and the plugins that bring them."""

import json
from collections.abc import Iterator
from typing import Any

from outrider.native import _C


def modes() -> list[str]:
    """Names of the modes that installed plugins provide, sorted; no plugin is loaded for that."""
    return _C.modes()


def plugins() -> list[dict[str, str]]:
    """Every plugin file that is found: name, version, path, and its problem, empty if usable."""
    return _C.plugins()


class _Registry:
    """Modes by name, as `outrider mode show` describes them."""

    def __contains__(self, name: object) -> bool:
        return name in modes()

    def __iter__(self) -> Iterator[str]:
        return iter(modes())

    def __len__(self) -> int:
        return len(modes())

    def __getitem__(self, name: str) -> dict[str, Any]:
        """A mode's plugin, config fields and presets. Raises OutriderError for an unknown mode."""
        return json.loads(_C.describe_mode(name))


SpeculativeDecodingModeRegistry = _Registry()
