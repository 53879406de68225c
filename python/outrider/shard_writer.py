"""Token shards: the folder that `outrider::TokenShards` reads."""

import hashlib

import numpy as np
from safetensors.numpy import save

SHARD_BYTES = 64 << 20
_TOKEN_BYTES, _CONVERSATION_BYTES = 5, 8


class ShardWriter:
    def __init__(self, folder, shard_bytes=SHARD_BYTES):
        self._folder, self._shard_bytes = folder, shard_bytes
        self._clear()
        self.shards = []  # descriptions of those written
        self.trained_tokens = 0

    def add(self, ids, mask):
        """`ids` little-endian int32 bytes, `mask` one byte a token."""
        size = len(mask) * _TOKEN_BYTES + _CONVERSATION_BYTES
        if self._lengths and self._bytes + size > self._shard_bytes:
            self._flush()
        self._ids.append(ids)
        self._masks.append(mask)
        self._lengths.append(len(mask))
        self._bytes += size
        self.trained_tokens += mask.count(1)

    def finish(self):
        if self._lengths:
            self._flush()

    def total(self, key):
        return sum(shard[key] for shard in self.shards)

    def _clear(self):
        self._ids, self._masks, self._lengths, self._bytes = [], [], [], 0

    def _flush(self):
        content = save({
            "input_ids": np.frombuffer(b"".join(self._ids), dtype="<i4"),
            "loss_mask": np.frombuffer(b"".join(self._masks), dtype=np.uint8),
            "offsets": np.cumsum([0, *self._lengths], dtype="<i8")})
        path = self._folder / f"shard-{len(self.shards):05d}.safetensors"
        path.write_bytes(content)
        self.shards.append({
            "file": path.name, "sha256": hashlib.sha256(content).hexdigest(),
            "conversations": len(self._lengths), "tokens": sum(self._lengths)})
        self._clear()
