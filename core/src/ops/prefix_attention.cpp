#include "ops/prefix_attention.h"

#include <ATen/ATen.h>

#include <limits>

#include "ops/document_attention.h"
#include "outrider/kernels/accumulation.h"

namespace outrider::ops {
namespace {

constexpr double kNeverAttended = -std::numeric_limits<double>::infinity();

enum class Backend { kFlashCpu, kFlashCuda, kCudnn, kByDocument, kComposed };

// Below, cuDNN gains less than the plans it makes for each new length cost.
constexpr int64_t kShortestForCudnn = 256;

bool is_plain(const PrefixMask& mask) {
  return !mask.key_mask.defined() && !mask.window && !mask.documents;
}

// Both kernels for CUDA know half types only, and no mask; cuDNN's are the faster ones.
Backend backend_for(const at::Tensor& query, const PrefixMask& mask) {
  if (attends_by_document(query, mask)) return Backend::kByDocument;
  if (query.is_cpu()) {
    return query.scalar_type() == at::kHalf ? Backend::kComposed : Backend::kFlashCpu;
  }
  const auto type = query.scalar_type();
  const bool flash = query.is_cuda() && (type == at::kHalf || type == at::kBFloat16) &&
                     query.size(3) % 8 == 0 && query.size(3) <= 256 && is_plain(mask);
  if (!flash) return Backend::kComposed;
  return query.size(2) >= kShortestForCudnn ? Backend::kCudnn : Backend::kFlashCuda;
}

// [B,1,S,S]: true where query i may see key j.
at::Tensor allowed_pairs(const at::Tensor& query, const PrefixMask& mask) {
  const int64_t size = query.size(2);
  auto allowed = at::ones({size, size}, query.options().dtype(at::kBool)).tril();
  if (mask.window) allowed = allowed.triu(1 - *mask.window);
  allowed = allowed.view({1, 1, size, size});
  if (mask.documents) {
    const auto key = at::arange(size, mask.documents->starts.options());
    const auto within = key >= mask.documents->starts.unsqueeze(-1);
    allowed = at::logical_and(allowed, within.unsqueeze(1));
  }
  if (!mask.key_mask.defined()) return allowed;
  return at::logical_and(allowed, mask.key_mask.unsqueeze(1).unsqueeze(1));
}

at::Tensor additive_mask(const at::Tensor& query, const PrefixMask& mask) {
  const auto allowed = allowed_pairs(query, mask);
  return at::zeros(allowed.sizes(), query.options())
      .masked_fill(at::logical_not(allowed), kNeverAttended);
}

// The flash kernel gives a query without any key the log-sum-exp 0, which would take part in
// merging.
void clear_rows_without_keys(PrefixResult& result, const at::Tensor& query,
                             const PrefixMask& mask) {
  if (!mask.key_mask.defined()) return;
  const auto none = at::logical_not(allowed_pairs(query, mask).any(-1));
  result.log_sum_exp = result.log_sum_exp.masked_fill(none, kNeverAttended);
  result.output = result.output.masked_fill(none.unsqueeze(-1), 0.0);
}

PrefixResult flash_cpu(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                       const PrefixMask& mask, double scale) {
  std::optional<at::Tensor> bias;
  if (!is_plain(mask)) bias = additive_mask(query, mask);
  auto [output, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
      query, key, value, 0.0, /*is_causal=*/!bias.has_value(), bias, scale);
  PrefixResult result{output, lse, {}, {}};
  clear_rows_without_keys(result, query, mask);
  return result;
}

PrefixGradients flash_cpu_backward(const at::Tensor& grad, const at::Tensor& query,
                                   const at::Tensor& key, const at::Tensor& value,
                                   const PrefixResult& merged, const PrefixMask& mask,
                                   double scale) {
  std::optional<at::Tensor> bias;
  if (!is_plain(mask)) bias = additive_mask(query, mask);
  // A row without keys has lse = -inf: exp(-inf + inf) would be NaN, and 0 keeps it at zero.
  const auto lse = mask.key_mask.defined()
                       ? at::where(at::isneginf(merged.log_sum_exp),
                                   at::zeros_like(merged.log_sum_exp), merged.log_sum_exp)
                       : merged.log_sum_exp;
  return at::_scaled_dot_product_flash_attention_for_cpu_backward(
      grad, query, key, value, merged.output, lse, 0.0, !bias.has_value(), bias, scale);
}

PrefixResult flash_cuda(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                        double scale) {
  auto result = at::_scaled_dot_product_flash_attention(query, key, value, 0.0, /*is_causal=*/true,
                                                        /*return_debug_mask=*/false, scale);
  return {std::get<0>(result), std::get<1>(result), std::get<6>(result), std::get<7>(result)};
}

PrefixGradients flash_cuda_backward(const at::Tensor& grad, const at::Tensor& query,
                                    const at::Tensor& key, const at::Tensor& value,
                                    const PrefixResult& merged, double scale) {
  return at::_scaled_dot_product_flash_attention_backward(
      grad, query, key, value, merged.output, merged.log_sum_exp.contiguous(), {}, {},
      query.size(2), key.size(2), 0.0, /*is_causal=*/true, merged.seed, merged.offset, scale);
}

PrefixResult cudnn(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                   double scale) {
  auto result = at::_scaled_dot_product_cudnn_attention(
      query, key, value, /*attn_bias=*/{}, /*compute_log_sumexp=*/true, 0.0, /*is_causal=*/true,
      /*return_debug_mask=*/false, scale);
  return {std::get<0>(result), std::get<1>(result).squeeze(-1), std::get<6>(result),
          std::get<7>(result)};
}

PrefixGradients cudnn_backward(const at::Tensor& grad, const at::Tensor& query,
                               const at::Tensor& key, const at::Tensor& value,
                               const PrefixResult& merged, double scale) {
  return at::_scaled_dot_product_cudnn_attention_backward(
      grad, query, key, value, merged.output, merged.log_sum_exp.unsqueeze(-1).contiguous(),
      merged.seed, merged.offset, /*attn_bias=*/{}, /*cum_seq_q=*/{}, /*cum_seq_k=*/{},
      query.size(2), key.size(2), 0.0, /*is_causal=*/true, scale);
}

// Key heads repeated for every query of their group.
at::Tensor repeated(const at::Tensor& keys, int64_t heads) {
  return keys.repeat_interleave(heads / keys.size(1), 1);
}

// The reverse of repeated() for a gradient.
at::Tensor summed(const at::Tensor& grad, int64_t key_heads) {
  auto sizes = grad.sizes().vec();
  sizes.insert(sizes.begin() + 2, sizes[1] / key_heads);
  sizes[1] = key_heads;
  return grad.reshape(sizes).sum(2);
}

at::Tensor masked_scores(const at::Tensor& query, const at::Tensor& key, const PrefixMask& mask,
                         double scale) {
  return (at::matmul(query, key.transpose(2, 3)) * scale)
      .masked_fill(at::logical_not(allowed_pairs(query, mask)), kNeverAttended);
}

PrefixResult composed(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                      const PrefixMask& mask, double scale) {
  const int64_t heads = query.size(1);
  const auto scores = masked_scores(widened(query), widened(repeated(key, heads)), mask, scale);
  const auto lse = at::logsumexp(scores, -1);
  const auto weights =
      at::exp(scores - lse.clamp_min(std::numeric_limits<float>::lowest()).unsqueeze(-1));
  const auto output = at::matmul(weights, widened(repeated(value, heads)));
  return {output.to(query.scalar_type()), lse, {}, {}};
}

PrefixGradients composed_backward(const at::Tensor& grad, const at::Tensor& query,
                                  const at::Tensor& key, const at::Tensor& value,
                                  const PrefixResult& merged, const PrefixMask& mask,
                                  double scale) {
  const int64_t heads = query.size(1);
  const auto type = query.scalar_type();
  const auto q = widened(query), k = widened(repeated(key, heads)),
             v = widened(repeated(value, heads));
  const auto d_out = widened(grad);
  const auto lse = merged.log_sum_exp.clamp_min(std::numeric_limits<float>::lowest());
  const auto weights = at::exp(masked_scores(q, k, mask, scale) - lse.unsqueeze(-1));
  const auto delta = (d_out * widened(merged.output)).sum(-1, true);
  const auto d_scores = weights * (at::matmul(d_out, v.transpose(2, 3)) - delta) * scale;
  const auto d_key = at::matmul(d_scores.transpose(2, 3), q);
  const auto d_value = at::matmul(weights.transpose(2, 3), d_out);
  return {at::matmul(d_scores, k).to(type), summed(d_key, key.size(1)).to(type),
          summed(d_value, key.size(1)).to(type)};
}

}  // namespace

PrefixResult prefix_attention(const at::Tensor& query, const at::Tensor& key,
                              const at::Tensor& value, const PrefixMask& mask, double scale) {
  switch (backend_for(query, mask)) {
    case Backend::kFlashCpu:
      return flash_cpu(query, key, value, mask, scale);
    case Backend::kFlashCuda:
      return flash_cuda(query, key, value, scale);
    case Backend::kCudnn:
      return cudnn(query, key, value, scale);
    case Backend::kByDocument:
      return document_attention(query, key, value, mask, scale);
    default:
      return composed(query, key, value, mask, scale);
  }
}

PrefixGradients prefix_attention_backward(const at::Tensor& grad, const at::Tensor& query,
                                          const at::Tensor& key, const at::Tensor& value,
                                          const PrefixResult& merged, const PrefixMask& mask,
                                          double scale) {
  switch (backend_for(query, mask)) {
    case Backend::kFlashCpu:
      return flash_cpu_backward(grad, query, key, value, merged, mask, scale);
    case Backend::kFlashCuda:
      return flash_cuda_backward(grad, query, key, value, merged, scale);
    case Backend::kCudnn:
      return cudnn_backward(grad, query, key, value, merged, scale);
    case Backend::kByDocument:
      return document_attention_backward(grad, query, key, value, merged, mask, scale);
    default:
      return composed_backward(grad, query, key, value, merged, mask, scale);
  }
}

}  // namespace outrider::ops
