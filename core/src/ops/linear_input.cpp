#include "outrider/ops/linear_input.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "outrider/error.h"
#include "outrider/ops/linear.h"
#include "outrider/ops/product.h"

namespace outrider::ops {
namespace {

using Make = LinearInput::Make;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor as_rows(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

at::Tensor made_of(const std::vector<at::Tensor>& sources, const Make& make) {
  return make ? make(sources) : sources.front();
}

/// What a node keeps beside its tensors, which are the sources, then the weights.
struct KeptInput : torch::CustomClassHolder {
  KeptInput(Make how, size_t number_of_sources, size_t number_of_biases)
      : make(std::move(how)), sources(number_of_sources), biases(number_of_biases) {}
  Make make;
  size_t sources, biases;
};

/// The input made a second time, in a graph of its own.
class MadeAgain {
 public:
  MadeAgain(const Make& make, at::TensorList sources, const std::vector<bool>& wanted)
      : make_(make), wanted_(wanted) {
    for (size_t i = 0; i < sources.size(); ++i) {
      sources_.push_back(sources[i].detach().set_requires_grad(wanted[i]));
    }
    const at::AutoGradMode with_graph(make_ != nullptr);
    tensor_ = made_of(sources_, make_);
  }

  at::Tensor rows() const { return as_rows(tensor_.detach()); }
  bool needs_gradient() const { return tensor_.requires_grad(); }

  /// Those of the sources, of the tensor's own as rows; undefined where nobody wants them.
  variable_list gradients(const at::Tensor& of_rows) const {
    variable_list all(sources_.size());
    if (!needs_gradient()) return all;
    const auto grad = of_rows.view(tensor_.sizes());
    if (!make_) return {grad};
    variable_list inputs;
    for (size_t i = 0; i < sources_.size(); ++i) {
      if (wanted_[i]) inputs.push_back(sources_[i]);
    }
    const auto found = torch::autograd::grad({tensor_}, inputs, {grad}, {}, false,
                                             /*allow_unused=*/true);
    for (size_t i = 0, next = 0; i < all.size(); ++i) {
      if (wanted_[i]) all[i] = found[next++];
    }
    return all;
  }

 private:
  const Make& make_;
  const std::vector<bool>& wanted_;
  variable_list sources_;
  at::Tensor tensor_;
};

// Σ dY W, added up in the products.
at::Tensor input_gradient(const variable_list& grads, at::TensorList weights) {
  auto sum = product(grads[0], weights[0]);
  for (size_t i = 1; i < grads.size(); ++i) add_product(sum, grads[i], weights[i]);
  return sum;
}

struct LinearOfInput : torch::autograd::Function<LinearOfInput> {
  // biases: one for each weight, or none at all.
  static variable_list forward(AutogradContext* ctx, at::TensorList sources, at::TensorList weights,
                               at::TensorList biases, const Make& make) {
    auto saved = sources.vec();
    const auto x = made_of(saved, make);
    saved.insert(saved.end(), weights.begin(), weights.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["input"] = c10::IValue::make_capsule(
        c10::make_intrusive<KeptInput>(make, sources.size(), biases.size()));
    variable_list outputs;
    for (size_t i = 0; i < weights.size(); ++i) {
      outputs.push_back(linear(x, weights[i], biases.empty() ? at::Tensor() : biases[i]));
    }
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto kept =
        c10::static_intrusive_pointer_cast<KeptInput>(ctx->saved_data["input"].toCapsule());
    const auto saved = ctx->get_saved_variables();
    const auto sources = at::TensorList(saved).slice(0, kept->sources);
    const auto weights = at::TensorList(saved).slice(kept->sources);
    std::vector<bool> wanted;
    for (size_t i = 0; i < saved.size() + kept->biases; ++i) {
      wanted.push_back(ctx->needs_input_grad(i));
    }
    for (auto& grad : grads) grad = as_rows(grad);
    const MadeAgain input(kept->make, sources, wanted);
    variable_list results;
    for (size_t i = 0; i < weights.size(); ++i) {
      const bool is_wanted = wanted[sources.size() + i];
      results.push_back(is_wanted ? product(grads[i].t(), input.rows()) : at::Tensor());
    }
    for (size_t i = 0; i < kept->biases; ++i) {
      results.push_back(wanted[saved.size() + i] ? grads[i].sum(0) : at::Tensor());
    }
    const auto d_input = input.needs_gradient() ? input_gradient(grads, weights) : at::Tensor();
    auto of_sources = input.gradients(d_input);
    results.insert(results.begin(), of_sources.begin(), of_sources.end());
    results.emplace_back();
    return results;
  }
};

}  // namespace

LinearInput::LinearInput(at::Tensor tensor) : sources_{std::move(tensor)} {}

LinearInput::LinearInput(std::vector<at::Tensor> sources, Make make)
    : sources_(std::move(sources)), make_(std::move(make)) {}

at::Tensor LinearInput::tensor() const { return made_of(sources_, make_); }

std::vector<at::Tensor> linear_outputs(const LinearInput& x,
                                       const std::vector<LinearParameters>& layers) {
  std::vector<at::Tensor> weights, biases;
  for (const auto& layer : layers) {
    weights.push_back(layer.weight);
    if (layer.bias.defined()) biases.push_back(layer.bias);
  }
  if (!biases.empty() && biases.size() != weights.size()) {
    throw Error(ErrorCode::kInternal, "linear_outputs: either each layer has a bias, or none");
  }
  return LinearOfInput::apply(at::TensorList(x.sources()), at::TensorList(weights),
                              at::TensorList(biases), x.make());
}

}  // namespace outrider::ops
