#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>

#include "outrider/api.h"
#include "outrider/nn/linear.h"
#include "outrider/ops/quantize_rows.h"

namespace outrider::nn {

/// The rows that layers beside each other read, such as the projections of query, key and value:
/// quantised once for all of them. It keeps what it made of the last ones, but not these. Not for
/// two threads at once.
class OUTRIDER_API Fp8Input {
 public:
  const ops::QuantizedRows& of(const at::Tensor& rows);

 private:
  bool made_last_of(const at::Tensor& rows) const;

  std::optional<c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>> last_;
  ops::QuantizedRows quantized_;
};

/// y = x Wᵀ + b of a frozen layer with x and W in eight-bit floats (e4m3, arXiv 2209.05433), a
/// scale for each row of both; summed in float32. The weight takes half the memory that it has in
/// bfloat16. GPUs have such products from compute capability 8.9 on; elsewhere the same numbers are
/// multiplied in float32.
class OUTRIDER_API Fp8Product : public LinearProduct {
 public:
  /// weight [out,in], on a GPU with both sizes multiples of 16 (else kUnsupported); bias [out] or
  /// undefined; input null where no other layer reads the same rows: nothing is kept then.
  Fp8Product(const at::Tensor& weight, at::Tensor bias, std::shared_ptr<Fp8Input> input);

  /// No gradient. Throws kUnsupported where the GPU has no such products.
  at::Tensor forward(const at::Tensor& x) const override;

 private:
  ops::QuantizedRows weight_;
  at::Tensor bias_;
  std::shared_ptr<Fp8Input> input_;
};

}  // namespace outrider::nn
