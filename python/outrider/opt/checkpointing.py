"""transformers' from_pretrained restores converted models by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers

from outrider.native import _C
from outrider.speculative.converted import Building, ConvertedModel, freeze_again

_RECORDS = ("outrider_state.json", "modelopt_state.pth")
_patched: Any = transformers.PreTrainedModel
_original: Any = None


def _record_folder(name: Any, subfolder: str) -> Path | None:
    folder = Path(name) / subfolder if isinstance(name, str | Path) else None
    if folder is None or not any((folder / record).is_file() for record in _RECORDS):
        return None
    return folder.resolve()


def _stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


@contextmanager
def _drafts_before_weights(cls: Any, folder: Path) -> Iterator[None]:
    """While it lasts, a model that `cls` makes has its drafts before weights are loaded."""
    record = _C.read_record(str(folder), None)
    own = cls.__dict__.get("__init__")
    made = cls.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        if type(self) is cls:
            building = Building(self)
            building.external.rebuild(record, str(folder), _stored_bytes(folder))
            building.attach()

    cls.__init__ = init
    try:
        yield
    finally:
        if own is None:
            del cls.__init__
        else:
            cls.__init__ = own


def _from_pretrained(cls: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
    folder = _record_folder(name, kwargs.get("subfolder") or "")
    if folder is None:
        return _original(cls, name, *args, **kwargs)
    with _drafts_before_weights(cls, folder):
        result = _original(cls, name, *args, **kwargs)
    model = result[0] if isinstance(result, tuple) else result
    if isinstance(model, ConvertedModel):
        freeze_again(model)
    return result


def enable_huggingface_checkpointing() -> None:
    """From here on `from_pretrained` of a converted model's folder, one of ModelOpt's included,
    returns the converted model. Calling it again changes nothing."""
    global _original
    if _original is None:
        _original = _patched.from_pretrained.__func__
        _patched.from_pretrained = classmethod(_from_pretrained)


def disable_huggingface_checkpointing() -> None:
    """Undoes enable_huggingface_checkpointing()."""
    global _original
    if _original is not None:
        _patched.from_pretrained = classmethod(_original)
        _original = None
