"""Compares a candidate's tensors with expected ones, name by name."""

import re

import numpy as np

# Name pattern → relative tolerance, absolute tolerance, and what the latter is multiplied with,
# given the largest expected magnitude.
TOLERANCES = [
    (r"^train_acc\.", 0.0, 1e-6, lambda largest: 1.0),
    (r"^(loss|eagle_loss)(\.|$)", 1e-5, 1e-5, lambda largest: 1.0),
    (r"^grad\.", 1e-4, 5e-5, lambda largest: largest),
    (r"", 1e-4, 1e-5, lambda largest: max(1.0, largest)),
]


def _allowed(name, expected):
    relative, absolute, scale = next(rest for pattern, *rest in TOLERANCES
                                     if re.search(pattern, name))
    magnitudes = np.abs(expected)
    return relative * magnitudes + absolute * scale(magnitudes.max(initial=0.0))


def difference(name, expected, candidate, mask=None):
    """What is wrong with one tensor, or None. A mask [B,S] chooses the rows that are compared."""
    if expected.shape != candidate.shape:
        return f"{name}: shape {candidate.shape}, expected {expected.shape}"
    if candidate.dtype.kind != expected.dtype.kind:
        return f"{name}: dtype {candidate.dtype}, expected {expected.dtype}"
    expected, candidate = (np.atleast_1d(a).astype(np.float64) for a in (expected, candidate))
    if mask is not None:
        expected, candidate = expected[mask != 0], candidate[mask != 0]
    off = np.abs(candidate - expected)
    wrong = ~(off <= _allowed(name, expected))  # also where it is no number
    if not wrong.any():
        return None
    return f"{name}: {wrong.sum()} of {wrong.size} are off, by up to {off[wrong].max():.3g}"


def differences(expected, candidate, masks=()):
    """A line for each expected tensor that the candidate lacks or that is off. More is fine."""
    lines = []
    for name in sorted(expected):
        if name not in candidate:
            lines.append(f"{name}: missing")
            continue
        mask = masks[name] if name in masks else None
        lines.append(difference(name, expected[name], candidate[name], mask))
    return [line for line in lines if line]
