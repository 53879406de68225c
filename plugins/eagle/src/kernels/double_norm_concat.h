#pragma once

#include <ATen/core/Tensor.h>

namespace outrider::eagle {

/// The input of EAGLE-3's first attention, [norm_e(e) ; norm_h(g)], in one pass over both inputs.
///
/// embeddings, hidden [...,h]; embedding_weight, hidden_weight [h]; result [...,2h]. RMS norms as
/// outrider::nn::RmsNorm computes them. With `twice`, hidden goes through norm_e first, as ModelOpt
/// trains it.
at::Tensor double_norm_concat(const at::Tensor& embeddings, const at::Tensor& hidden,
                              const at::Tensor& embedding_weight, const at::Tensor& hidden_weight,
                              double eps, bool twice);

/// Registers outrider_eagle::double_norm_concat and its backward; call once, in the entry function.
void register_double_norm_concat();

}  // namespace outrider::eagle
