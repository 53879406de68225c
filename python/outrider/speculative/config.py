"""Configs of the modes, and the presets of ModelOpt.

Values are checked by the plugin's own schema when a config is made; `outrider mode show NAME`
describes the fields.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from outrider.native import _C

EAGLE1_DEFAULT_CFG: dict[str, Any]
EAGLE3_DEFAULT_CFG: dict[str, Any]
EAGLE_MTP_DEFAULT_CFG: dict[str, Any]

_PRESETS = {
    "EAGLE1_DEFAULT_CFG": "eagle",
    "EAGLE3_DEFAULT_CFG": "eagle",
    "EAGLE_MTP_DEFAULT_CFG": "eagle",
}


def __getattr__(name: str) -> Any:
    mode = _PRESETS.get(name)
    if mode is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    presets = json.loads(_C.describe_mode(mode))["presets"]
    return {"algorithm": mode, "config": presets[name]}


def __dir__() -> list[str]:
    return sorted([*globals(), *_PRESETS])


class ModeConfig(Mapping[str, Any]):
    """A mode's config: every field of its schema, as an attribute and as a key.

    Raises OutriderError that lists every wrong or unknown field at once.
    """

    mode: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "_values", self._resolved(values))

    @classmethod
    def _resolved(cls, values: dict[str, Any]) -> dict[str, Any]:
        return json.loads(_C.resolve_config(cls.mode, json.dumps(values)))

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        if name in values:
            return values[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, "_values", self._resolved({**self._values, name: value}))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"{type(self).__name__}({fields})"

    def __reduce__(self) -> tuple:
        return (_rebuilt, (type(self), dict(self._values)))

    def model_dump(self) -> dict[str, Any]:
        """The fields as a dict, which `convert` takes too."""
        return dict(self._values)


def _rebuilt(cls: type[ModeConfig], values: dict[str, Any]) -> ModeConfig:
    return cls(**values)


class EagleConfig(ModeConfig):
    """EAGLE-1, EAGLE-3 and EAGLE-MTP; the variant is in `eagle_architecture_config`."""

    mode = "eagle"


class MedusaConfig(ModeConfig):
    """Medusa heads."""

    mode = "medusa"
