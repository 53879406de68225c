#include "outrider/model/lm_head.h"

#include <ATen/ATen.h>

#include "outrider/ops/linear.h"

namespace outrider {

LmHead::LmHead(at::Tensor embedding, at::Tensor weight)
    : embedding_(std::move(embedding)), weight_(std::move(weight)) {}

LmHead::LmHead(at::Tensor embedding, at::Tensor weight, at::ScalarType type)
    : embedding_(std::move(embedding)), weight_(std::move(weight)), type_(type) {}

at::Tensor LmHead::weight() const { return weight_.to(dtype()); }

at::Tensor LmHead::weight(const at::Tensor& token_ids) const {
  return weight_.index_select(0, token_ids).to(dtype());
}

at::Tensor LmHead::logits(const at::Tensor& rows) const { return ops::linear(rows, weight_); }

at::Tensor LmHead::embedding(const at::Tensor& token_ids) const {
  return at::embedding(embedding_, token_ids).to(dtype());
}

}  // namespace outrider
