#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "outrider/api.h"

namespace outrider {

/// The processes that share sequences: each owns as many rows of every sequence as the others, in
/// order. All must make the same exchanges in the same order, forward and backward.
class OUTRIDER_API SequenceShare {
 public:
  virtual ~SequenceShare();

  virtual int64_t count() const = 0;
  /// Of this process; 0 owns the first rows.
  virtual int64_t index() const = 0;
  /// Part i of `parts` [count,…], contiguous, goes to process i; part i of the result is from it.
  virtual at::Tensor exchange(const at::Tensor& parts) = 0;
};

namespace ops {

/// Throws kUnsupported unless `heads` is a multiple of `processes`.
OUTRIDER_API void require_shared_heads(int64_t heads, int64_t processes);

/// The two exchanges around an attention over sequences that N processes share (DeepSpeed-Ulysses,
/// arXiv 2309.14509). Differentiable: the gradient takes the way back.
///
/// x [B,H,L,D], every head of this process's rows → [B,H/N,N·L,D], its heads of every row. Throws
/// as require_shared_heads() does.
OUTRIDER_API at::Tensor rows_to_heads(const at::Tensor& x,
                                      const std::shared_ptr<SequenceShare>& share);
/// The reverse.
OUTRIDER_API at::Tensor heads_to_rows(const at::Tensor& x,
                                      const std::shared_ptr<SequenceShare>& share);

}  // namespace ops
}  // namespace outrider
