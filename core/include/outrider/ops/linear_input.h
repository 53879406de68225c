#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "outrider/api.h"

namespace outrider::ops {

/// What a backward pass computes again instead of keeping it from the forward pass.
enum class Recompute {
  kNothing,
  kElementwise,  // norms, concatenations and activations: a pass over memory each
  kProducts,     // and the products of a layer's MLP with its gate and up projection
};

/// What linear layers read: a tensor, or how it is made of others. What is made is not kept for the
/// backward pass, which makes it again of its sources.
class OUTRIDER_API LinearInput {
 public:
  /// Must give the same for the same sources, and read no other tensor that needs a gradient.
  using Make = std::function<at::Tensor(const std::vector<at::Tensor>& sources)>;

  LinearInput(at::Tensor tensor);  // NOLINT: a tensor is such an input
  LinearInput(std::vector<at::Tensor> sources, Make make);

  bool is_made() const { return static_cast<bool>(make_); }
  const std::vector<at::Tensor>& sources() const { return sources_; }
  const Make& make() const { return make_; }
  /// The tensor [...,in], in the graph of its sources.
  at::Tensor tensor() const;

 private:
  std::vector<at::Tensor> sources_;
  Make make_;
};

/// weight [out,in]; bias [out], or undefined.
struct LinearParameters {
  at::Tensor weight, bias;
};

/// x Wᵀ + b, [...,out] for each of several layers, which all have a bias or none, in the type of x.
/// Keeps the input's sources alone, and the layers' gradients of it add up within the products.
OUTRIDER_API std::vector<at::Tensor> linear_outputs(const LinearInput& x,
                                                    const std::vector<LinearParameters>& layers);

}  // namespace outrider::ops
