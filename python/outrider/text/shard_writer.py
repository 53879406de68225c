"""Token shards: the folder that `outrider::TokenShards` reads."""

import hashlib

import numpy as np
from safetensors.numpy import save

from .tool import write_atomically


class ShardWriter:
    def __init__(self, folder, shard_tokens, shards=()):
        """`shards`: descriptions of those that are written already."""
        self._folder, self._shard_tokens = folder, shard_tokens
        self.shards = list(shards)
        self._clear()

    def is_full_for(self, tokens):
        """Whether a conversation of so many tokens belongs into the next shard."""
        return bool(self._lengths) and self._tokens + tokens > self._shard_tokens

    def add(self, ids, mask):
        """`ids` little-endian int32 bytes, `mask` one byte a token."""
        self._ids.append(ids)
        self._masks.append(mask)
        self._lengths.append(len(mask))
        self._tokens += len(mask)

    def flush(self):
        """Writes what was added as one shard; its file appears whole or not at all."""
        if not self._lengths:
            return
        content = save({
            "input_ids": np.frombuffer(b"".join(self._ids), dtype="<i4"),
            "loss_mask": np.frombuffer(b"".join(self._masks), dtype=np.uint8),
            "offsets": np.cumsum([0, *self._lengths], dtype="<i8")})
        path = self._folder / shard_name(len(self.shards))
        write_atomically(path, content)
        self.shards.append({
            "file": path.name, "sha256": hashlib.sha256(content).hexdigest(),
            "conversations": len(self._lengths), "tokens": self._tokens})
        self._clear()

    def total(self, key):
        return sum(shard[key] for shard in self.shards)

    def _clear(self):
        self._ids, self._masks, self._lengths, self._tokens = [], [], [], 0


def shard_name(number):
    return f"shard-{number:05d}.safetensors"
