#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "outrider/api.h"
#include "outrider/ops/linear_input.h"

namespace outrider::nn {

/// Another way to a linear layer's product than its own weight and bias, such as one that keeps the
/// weight in fewer bits.
class OUTRIDER_API LinearProduct {
 public:
  virtual ~LinearProduct();

  /// x [...,in] → [...,out], in the type of x.
  virtual at::Tensor forward(const at::Tensor& x) const = 0;
};

/// y = x Wᵀ + b, with torch.nn.Linear's parameter names. Unlike torch::nn::Linear it does not spend
/// time on random values that a checkpoint replaces: initialisation is asked for.
class OUTRIDER_API Linear : public torch::nn::Module {
 public:
  /// weight [out,in] and bias [out] are uninitialised.
  Linear(int64_t in, int64_t out, bool with_bias, at::TensorOptions options);

  /// PyTorch's default: U(-1/√in, 1/√in) for both, from the process's generator.
  void reset_parameters();

  /// x [...,in] → [...,out], in the type of x: parameters of another are converted for the product.
  at::Tensor forward(const at::Tensor& x) const;
  /// residual + forward(x). On a GPU without a graph it is computed in place of `residual` where
  /// the product can add to it, which saves a pass over memory.
  at::Tensor add_to(const at::Tensor& residual, const at::Tensor& x) const;
  /// Has the product computed by another from here on, or by the layer itself again for null. The
  /// layer's parameters stay as they are.
  void replace_product(std::shared_ptr<const LinearProduct> product);
  /// Keeps of the weight its name, shape and type alone: for a product that has its own, for good.
  void release_weight();

  /// Whether the product is x Wᵀ + b with the parameters as they are, in one type.
  bool is_plain_for(const ops::LinearInput& x) const;

  /// The parameters, where the product is that of these.
  std::optional<ops::LinearParameters> plain_parameters() const;

  at::Tensor weight, bias;

 private:
  bool adds_in_place(const at::Tensor& residual, const at::Tensor& x) const;

  std::shared_ptr<const LinearProduct> product_;  // null: the layer's own
};

/// A layer initialised as PyTorch does.
OUTRIDER_API std::shared_ptr<Linear> initialized_linear(int64_t in, int64_t out, bool with_bias,
                                                        at::TensorOptions options);

/// Of each, where all have such.
OUTRIDER_API std::optional<std::vector<ops::LinearParameters>> plain_parameters(
    const std::vector<const Linear*>& layers);

/// What each layer makes of one input: where a graph is kept, without keeping an input that is
/// made.
OUTRIDER_API std::vector<at::Tensor> outputs_of(const std::vector<const Linear*>& layers,
                                                const ops::LinearInput& x);

}  // namespace outrider::nn
