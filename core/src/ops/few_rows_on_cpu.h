#pragma once

#include "outrider/ops/few_rows.h"

/// ops/few_rows.h on a CPU: rows, and apart from them weights, of float32 or bfloat16. Sums are in
/// float32, and what a layer, norm or rotation gives is rounded as bfloat16 rows are.
namespace outrider::ops::on_cpu {

bool takes_few_rows(const at::Tensor& x, int64_t rows, int64_t inner,
                    const std::vector<LinearParameters>& layers);
void few_rows_product(const at::Tensor& x, const NormBefore& norm,
                      const std::vector<LinearParameters>& layers, Joined joined,
                      const at::Tensor& residual, const at::Tensor& y);
void few_rows_attention(const FewRowsAttention& attention, const at::Tensor& y);

}  // namespace outrider::ops::on_cpu
