#include "outrider/ops/few_rows.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>

#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/swiglu.h"
#include "ops/few_rows_on_cpu.h"
#include "outrider/error.h"
#include "outrider/kernels/launch.h"
#include "outrider/ops/rms_norm.h"

namespace outrider::ops {
namespace {

static_assert(kMostRowsOfSequence == cuda::kMostFewRows);

constexpr int64_t kInnerStep = 32, kTile = 8;
constexpr std::array<int64_t, 5> kHeadSizes = {32, 64, 96, 128, 256};

bool is_plain_on_device(const at::Tensor& x) {
  return x.is_cuda() && x.scalar_type() == at::kBFloat16 && x.is_contiguous() &&
         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

bool has_kernel_for(const LinearParameters& layer, int64_t inner, bool is_last) {
  return is_plain_on_device(layer.weight) && layer.weight.dim() == 2 &&
         layer.weight.size(1) == inner && (is_last || layer.weight.size(0) % kTile == 0) &&
         (!layer.bias.defined() || is_plain_on_device(layer.bias));
}

// y [n,out] = x [n,in] Wᵀ + b + residual, by cuBLAS.
void multiply(const at::Tensor& x, const LinearParameters& layer, const at::Tensor& residual,
              at::Tensor y) {
  const auto weight = layer.weight.t();
  const auto& added = residual.defined() ? residual : layer.bias;
  added.defined() ? at::addmm_out(y, added, x, weight) : at::mm_out(y, x, weight);
  if (residual.defined() && layer.bias.defined()) y.add_(layer.bias);
}

void multiply_gated(const at::Tensor& x, const std::vector<LinearParameters>& layers,
                    const at::Tensor& y) {
  const auto gate = at::empty_like(y), up = at::empty_like(y);
  multiply(x, layers[0], {}, gate);
  multiply(x, layers[1], {}, up);
  const kernels::Launch launch("swiglu", y);
  launch.check(cuda::swiglu(launch.type(), y.numel(), gate.const_data_ptr(), up.const_data_ptr(),
                            y.data_ptr(), launch.stream()));
}

// Of more rows than a kernel takes.
void multiply_many(const at::Tensor& x, const NormBefore& norm,
                   const std::vector<LinearParameters>& layers, Joined joined,
                   const at::Tensor& residual, const at::Tensor& y) {
  const auto flat = [](const at::Tensor& t) { return t.view({-1, t.size(-1)}); };
  const auto rows = norm.weight.defined() ? rms_norm(flat(x), norm.weight, norm.eps) : flat(x);
  const auto all = flat(y), added = residual.defined() ? flat(residual) : at::Tensor();
  if (joined == Joined::kGated) {
    multiply_gated(rows, layers, all);
    if (added.defined()) all.add_(added);
    return;
  }
  int64_t begin = 0;
  for (const auto& layer : layers) {
    const int64_t width = layer.weight.size(0);
    multiply(rows, layer, added.defined() ? added.narrow(1, begin, width) : added,
             all.narrow(1, begin, width));
    begin += width;
  }
}

const void* pointer_of(const at::Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }

cuda::FewRowsAttention on_pointers(const FewRowsAttention& a) {
  const int64_t batch = a.qkv.size(0), rows = a.qkv.size(1), size = a.keys.size(3),
                key_heads = a.keys.size(1);
  return {.batch = batch,
          .rows = rows,
          .heads = a.qkv.size(2) / size - 2 * key_heads,
          .key_heads = key_heads,
          .head_dim = size,
          .rotated = a.cos.size(-1),
          .qkv = a.qkv.const_data_ptr(),
          .query_norm = pointer_of(a.query_norm.weight),
          .key_norm = pointer_of(a.key_norm.weight),
          .eps = static_cast<float>(a.query_norm.eps),
          .cos = a.cos.const_data_ptr(),
          .sin = a.sin.const_data_ptr(),
          .positions = a.positions.const_data_ptr<int64_t>(),
          .position_batch = a.positions.size(0),
          .tables_by_position = a.tables_by_position,
          .keys = a.keys.data_ptr(),
          .values = a.values.data_ptr(),
          .capacity = a.keys.size(2),
          .lengths = a.lengths.const_data_ptr<int64_t>(),
          .length_batch = a.lengths.numel(),
          .seen = a.seen.defined() ? a.seen.const_data_ptr<bool>() : nullptr,
          .seen_batch = a.seen.defined() ? a.seen.size(0) : 1,
          .seen_rows = a.seen.defined() ? a.seen.size(2) : 0,
          .window = a.window,
          .workspace = nullptr,
          .y = nullptr};
}

}  // namespace

bool takes_few_rows(const at::Tensor& x, const std::vector<LinearParameters>& layers) {
  return x.dim() > 0 && takes_few_rows(x, x.size(-1), layers);
}

bool takes_few_rows(const at::Tensor& x, int64_t inner,
                    const std::vector<LinearParameters>& layers) {
  if (!c10::InferenceMode::is_enabled() || x.dim() == 0 || x.size(-1) == 0 || inner == 0) {
    return false;
  }
  const int64_t rows = x.numel() / x.size(-1);
  if (x.is_cpu()) return on_cpu::takes_few_rows(x, rows, inner, layers);
  if (!cuda::few_rows_product || !is_plain_on_device(x) || inner % kInnerStep != 0 ||
      rows > kMostRowsOfPass) {
    return false;
  }
  return std::ranges::all_of(layers, [&](const LinearParameters& layer) {
    return has_kernel_for(layer, inner, &layer == &layers.back());
  });
}

void few_rows_product(const at::Tensor& x, const NormBefore& norm,
                      const std::vector<LinearParameters>& layers, Joined joined,
                      const at::Tensor& residual, const at::Tensor& y) {
  if (x.is_cpu()) return on_cpu::few_rows_product(x, norm, layers, joined, residual, y);
  const int64_t rows = x.numel() / x.size(-1);
  if (rows > cuda::kMostFewRows) return multiply_many(x, norm, layers, joined, residual, y);
  const kernels::Launch launch("few_rows_product", x);
  cuda::FewRowsProduct product{.rows = rows,
                               .inner = x.size(-1),
                               .x = x.const_data_ptr(),
                               .norm = pointer_of(norm.weight),
                               .eps = static_cast<float>(norm.eps),
                               .parts = {},
                               .gated = joined == Joined::kGated,
                               .residual = pointer_of(residual),
                               .y = y.data_ptr()};
  for (size_t i = 0; i < layers.size(); ++i) {
    product.parts[i] = {layers[i].weight.const_data_ptr(), pointer_of(layers[i].bias),
                        layers[i].weight.size(0)};
  }
  launch.check(cuda::few_rows_product(product, launch.stream()));
}

bool attends_few_rows(const at::Tensor& x, int64_t head_dim) {
  if (x.is_cpu()) return true;
  return cuda::few_rows_attention && std::ranges::find(kHeadSizes, head_dim) != kHeadSizes.end();
}

at::Tensor few_rows_linear(const at::Tensor& x, const NormBefore& norm,
                           const LinearParameters& layer) {
  auto sizes = x.sizes().vec();
  sizes.back() = layer.weight.size(0);
  auto y = at::empty(sizes, x.options());
  few_rows_product(x, norm, {layer}, Joined::kSideBySide, {}, y);
  return y;
}

int64_t few_rows_workspace(const FewRowsAttention& attention) {
  if (attention.qkv.is_cpu()) return 0;
  return cuda::few_rows_attention_workspace(on_pointers(attention));
}

void few_rows_attention(const FewRowsAttention& attention, const at::Tensor& workspace,
                        const at::Tensor& y) {
  if (y.is_cpu()) return on_cpu::few_rows_attention(attention, y);
  const kernels::Launch launch("few_rows_attention", attention.qkv);
  auto pointers = on_pointers(attention);
  pointers.workspace = workspace.data_ptr();
  pointers.y = y.data_ptr();
  launch.check(cuda::few_rows_attention(pointers, launch.stream()));
}

}  // namespace outrider::ops
