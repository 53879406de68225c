#include "outrider/nn/mlp.h"

#include <ATen/ATen.h>

#include <typeinfo>

#include "outrider/ops/swiglu.h"

namespace outrider::nn {

Mlp::~Mlp() = default;

at::Tensor Mlp::add_to(const at::Tensor& residual, const at::Tensor& x) const {
  return residual + forward(x);
}

std::optional<std::vector<ops::LinearParameters>> Mlp::swiglu_parameters() const {
  return std::nullopt;
}

SwiGluMlp::SwiGluMlp(int64_t hidden_size, int64_t intermediate_size, bool bias,
                     at::TensorOptions options) {
  gate_proj = register_module(
      "gate_proj", std::make_shared<Linear>(hidden_size, intermediate_size, bias, options));
  up_proj = register_module(
      "up_proj", std::make_shared<Linear>(hidden_size, intermediate_size, bias, options));
  down_proj = register_module(
      "down_proj", std::make_shared<Linear>(intermediate_size, hidden_size, bias, options));
}

std::optional<std::vector<ops::LinearParameters>> SwiGluMlp::swiglu_parameters() const {
  if (typeid(*this) != typeid(SwiGluMlp)) return std::nullopt;
  return plain_parameters({gate_proj.get(), up_proj.get(), down_proj.get()});
}

at::Tensor SwiGluMlp::forward(const at::Tensor& x) const {
  return forward(x, ops::Recompute::kNothing);
}

at::Tensor SwiGluMlp::add_to(const at::Tensor& residual, const at::Tensor& x) const {
  if (typeid(*this) != typeid(SwiGluMlp)) return Mlp::add_to(residual, x);
  return down_proj->add_to(residual, ops::swiglu(gate_proj->forward(x), up_proj->forward(x)));
}

at::Tensor SwiGluMlp::forward(const ops::LinearInput& x, ops::Recompute recompute) const {
  if (recompute == ops::Recompute::kProducts && gate_proj->is_plain_for(x) &&
      up_proj->is_plain_for(x)) {
    return outputs_of({down_proj.get()}, activation_of(x)).front();
  }
  const auto halves = outputs_of({gate_proj.get(), up_proj.get()}, x);
  if (recompute == ops::Recompute::kNothing) {
    return down_proj->forward(ops::swiglu(halves[0], halves[1]));
  }
  const ops::LinearInput activation(
      halves, [](const auto& sources) { return ops::swiglu(sources[0], sources[1]); });
  return outputs_of({down_proj.get()}, activation).front();
}

// All of it made of the block's input.
ops::LinearInput SwiGluMlp::activation_of(const ops::LinearInput& x) const {
  auto sources = x.sources();
  const size_t count = sources.size();
  const bool has_bias = gate_proj->bias.defined();
  sources.insert(sources.end(), {gate_proj->weight, up_proj->weight});
  if (has_bias) sources.insert(sources.end(), {gate_proj->bias, up_proj->bias});
  return {sources, [make = x.make(), count, has_bias](const std::vector<at::Tensor>& all) {
            const ops::LinearInput input({all.begin(), all.begin() + static_cast<ptrdiff_t>(count)},
                                         make);
            const auto bias = [&](size_t i) {
              return has_bias ? all[count + 2 + i] : at::Tensor();
            };
            const auto halves =
                ops::linear_outputs(input, {{all[count], bias(0)}, {all[count + 1], bias(1)}});
            return ops::swiglu(halves[0], halves[1]);
          }};
}

}  // namespace outrider::nn
