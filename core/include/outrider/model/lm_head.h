#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "outrider/api.h"

namespace outrider {

/// The base's embedding and output matrices. Logits are computed for the rows a caller asks for, so
/// that no [tokens, vocabulary] buffer exists; callers chunk.
class OUTRIDER_API LmHead {
 public:
  /// `embedding` and `weight` [V,h]; the same tensor when they are tied.
  LmHead(at::Tensor embedding, at::Tensor weight);
  /// Hands out everything in `type`, converted as it is asked for.
  LmHead(at::Tensor embedding, at::Tensor weight, at::ScalarType type);

  int64_t vocab_size() const { return weight_.size(0); }
  at::ScalarType dtype() const { return type_.value_or(weight_.scalar_type()); }
  at::Device device() const { return weight_.device(); }
  /// [V,h].
  at::Tensor weight() const;
  /// [n,h]: the rows of the given token ids, copied.
  at::Tensor weight(const at::Tensor& token_ids) const;
  /// rows [n,h] → [n,V].
  at::Tensor logits(const at::Tensor& rows) const;
  /// token ids [...] → [...,h].
  at::Tensor embedding(const at::Tensor& token_ids) const;

 private:
  at::Tensor embedding_, weight_;
  std::optional<at::ScalarType> type_;  // of what is handed out, where it is not the weight's
};

}  // namespace outrider
