#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "outrider/api.h"

namespace outrider::ops {

/// Rows that hold several documents after one another: nothing is attended to across them.
struct OUTRIDER_API Documents {
  at::Tensor starts;  // [B,S] int64: where in its row the document of each position begins
  at::Tensor offsets;  // [N+1] int32: where each begins in the B·S positions, and B·S; may be empty
  int64_t longest = 0;  // tokens of the longest, or more

  /// The same documents with the sizes that many have: empty ones added at the end, `longest`
  /// rounded up. Kernels are planned by sizes.
  Documents with_common_sizes() const;

  /// Of the first `length` positions of each row; what lies beyond is cut off, or is left empty.
  Documents first(int64_t length) const;
};

/// Of document_ids [B,S] int64: a document is a run of one id in a row. Reads the ids on the host.
OUTRIDER_API Documents documents_of(const at::Tensor& document_ids);

}  // namespace outrider::ops
