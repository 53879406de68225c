#pragma once

#include <ATen/core/Tensor.h>

namespace hydra {

/// The heads' input in one pass: row n of the result is
///
///     [ state[rows[n]] ; embeddings[rows[n]+1] ; … ; embeddings[rows[n]+count] ].
///
/// state and embeddings [M,h], of one type; rows [N] int64, strictly increasing, each at least 0
/// and below M-count; count ≥ 0 → [N,(count+1)·h]. Differentiable in both tensors, in a fixed
/// order of sums. Throws kInternal for other shapes or types.
at::Tensor gather_concat(const at::Tensor& state, const at::Tensor& embeddings,
                         const at::Tensor& rows, int64_t count);

/// Registers outrider_hydra::gather_concat and its backward; call once, in the entry function.
void register_gather_concat();

}  // namespace hydra
