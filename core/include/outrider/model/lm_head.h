#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "outrider/api.h"

namespace outrider {

/// The base's embedding and output matrices. Logits are computed for the rows a caller asks for, so
/// that no [tokens, vocabulary] buffer exists; callers chunk.
class OUTRIDER_API LmHead {
 public:
  /// `embedding` and `weight` [V,h]; the same tensor when they are tied.
  LmHead(at::Tensor embedding, at::Tensor weight);

  int64_t vocab_size() const { return weight_.size(0); }
  /// [V,h].
  const at::Tensor& weight() const { return weight_; }
  /// [n,h]: the rows of the given token ids, copied.
  at::Tensor weight(const at::Tensor& token_ids) const;
  /// rows [n,h] → [n,V].
  at::Tensor logits(const at::Tensor& rows) const;
  /// token ids [...] → [...,h].
  at::Tensor embedding(const at::Tensor& token_ids) const;

 private:
  at::Tensor embedding_, weight_;
};

}  // namespace outrider
