"""Save and restore converted models; the names are those of `modelopt.torch.opt`."""

from outrider.opt.checkpointing import disable_huggingface_checkpointing
from outrider.opt.checkpointing import enable_huggingface_checkpointing
from outrider.opt.files import restore, save

__all__ = [
    "disable_huggingface_checkpointing",
    "enable_huggingface_checkpointing",
    "restore",
    "save",
]
