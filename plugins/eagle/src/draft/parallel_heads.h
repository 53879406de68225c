#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "outrider/nn/linear.h"

namespace outrider::eagle {

/// Heads after the draft's own, Medusa's (arXiv 2401.10774) on top of EAGLE: head i predicts the
/// token i places further. Each is a stack of blocks x + silu(Wx + b); one output matrix serves
/// them all.
class ParallelHeads : public torch::nn::Module {
 public:
  ParallelHeads(int64_t heads, int64_t blocks, int64_t hidden_size, int64_t vocab_size,
                at::TensorOptions options);

  /// rows [...,h] after the final norm → the rows that the output matrix reads. head from 0.
  at::Tensor forward(int64_t head, const at::Tensor& rows) const;

  std::shared_ptr<nn::Linear> lm_head;  // weight [Vd,h]

 private:
  std::vector<std::vector<std::shared_ptr<nn::Linear>>> heads_;
};

}  // namespace outrider::eagle
