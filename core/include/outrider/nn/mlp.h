#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "outrider/api.h"
#include "outrider/nn/linear.h"

namespace outrider::nn {

/// What a decoder layer does to each position after attention.
class OUTRIDER_API Mlp : public torch::nn::Module {
 public:
  ~Mlp() override;

  /// x [...,h] → [...,h].
  virtual at::Tensor forward(const at::Tensor& x) const = 0;
  /// residual + forward(x); without a graph it may be computed in place of `residual`.
  virtual at::Tensor add_to(const at::Tensor& residual, const at::Tensor& x) const;
  /// Gate, up and down, where the block is SwiGLU's and the products those of its parameters.
  virtual std::optional<std::vector<ops::LinearParameters>> swiglu_parameters() const;
};

/// down(silu(gate(x)) · up(x)), arXiv 2002.05202.
class OUTRIDER_API SwiGluMlp : public Mlp {
 public:
  SwiGluMlp(int64_t hidden_size, int64_t intermediate_size, bool bias, at::TensorOptions options);
  at::Tensor forward(const at::Tensor& x) const override;
  at::Tensor add_to(const at::Tensor& residual, const at::Tensor& x) const override;
  /// Of this class alone: a subclass may compute something else.
  std::optional<std::vector<ops::LinearParameters>> swiglu_parameters() const override;
  /// forward(), with what the backward pass computes again.
  at::Tensor forward(const ops::LinearInput& x, ops::Recompute recompute) const;

  std::shared_ptr<Linear> gate_proj, up_proj, down_proj;

 private:
  ops::LinearInput activation_of(const ops::LinearInput& x) const;
};

}  // namespace outrider::nn
