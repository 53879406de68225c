#pragma once

#include "outrider/ops/few_rows.h"

/// ops/few_rows.h in float32 on a CPU; weights may be bfloat16.
namespace outrider::ops::on_cpu {

bool takes_few_rows(const at::Tensor& x, int64_t rows, int64_t inner,
                    const std::vector<LinearParameters>& layers);
void few_rows_product(const at::Tensor& x, const NormBefore& norm,
                      const std::vector<LinearParameters>& layers, Joined joined,
                      const at::Tensor& residual, const at::Tensor& y);
void few_rows_attention(const FewRowsAttention& attention, const at::Tensor& y);

}  // namespace outrider::ops::on_cpu
