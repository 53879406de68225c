#include "outrider/nn/mlp.h"

#include <ATen/ATen.h>

#include "outrider/ops/swiglu.h"

namespace outrider::nn {

Mlp::~Mlp() = default;

SwiGluMlp::SwiGluMlp(int64_t hidden_size, int64_t intermediate_size, bool bias,
                     at::TensorOptions options) {
  gate_proj = register_module(
      "gate_proj", std::make_shared<Linear>(hidden_size, intermediate_size, bias, options));
  up_proj = register_module(
      "up_proj", std::make_shared<Linear>(hidden_size, intermediate_size, bias, options));
  down_proj = register_module(
      "down_proj", std::make_shared<Linear>(intermediate_size, hidden_size, bias, options));
}

at::Tensor SwiGluMlp::forward(const at::Tensor& x) const {
  return down_proj->forward(ops::swiglu(gate_proj->forward(x), up_proj->forward(x)));
}

}  // namespace outrider::nn
