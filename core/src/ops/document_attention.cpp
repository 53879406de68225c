#include "ops/document_attention.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/cuda/document_attention.h"
#include "ops/head_vectors.h"
#include "outrider/kernels/accumulation.h"
#include "outrider/kernels/launch.h"

namespace outrider::ops {
namespace {

/// Where one document lies in [B,H,S,...].
struct Span {
  int64_t row, begin, length;

  at::Tensor of(const at::Tensor& x) const { return x.narrow(0, row, 1).narrow(2, begin, length); }
};

// Offsets are on the CPU, as the tensors are.
std::vector<Span> spans_of(const Documents& documents, int64_t row_length) {
  const auto offsets = documents.offsets.contiguous();
  const auto* offset = offsets.const_data_ptr<int32_t>();
  std::vector<Span> spans;
  for (int64_t i = 0; i + 1 < offsets.size(0); ++i) {
    const int64_t length = offset[i + 1] - offset[i];
    if (length > 0) spans.push_back({offset[i] / row_length, offset[i] % row_length, length});
  }
  return spans;
}

PrefixMask mask_within(const PrefixMask& mask, const Span& span) {
  PrefixMask within{{}, mask.window, {}};
  if (within.window && *within.window >= span.length) within.window.reset();
  return within;
}

PrefixResult one_by_one(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                        const PrefixMask& mask, double scale) {
  PrefixResult all{
      at::empty_like(query),
      at::empty(query.sizes().slice(0, 3), query.options().dtype(accumulation_type(query))),
      {},
      {}};
  for (const auto& span : spans_of(*mask.documents, query.size(2))) {
    const auto one = prefix_attention(span.of(query), span.of(key), span.of(value),
                                      mask_within(mask, span), scale);
    span.of(all.output).copy_(one.output);
    span.of(all.log_sum_exp).copy_(one.log_sum_exp);
  }
  return all;
}

PrefixGradients one_by_one_backward(const at::Tensor& grad, const at::Tensor& query,
                                    const at::Tensor& key, const at::Tensor& value,
                                    const PrefixResult& merged, const PrefixMask& mask,
                                    double scale) {
  PrefixGradients all{at::empty_like(query), at::empty_like(key), at::empty_like(value)};
  for (const auto& span : spans_of(*mask.documents, query.size(2))) {
    const PrefixResult part{
        span.of(merged.output), span.of(merged.log_sum_exp).contiguous(), {}, {}};
    const auto [d_query, d_key, d_value] =
        prefix_attention_backward(span.of(grad), span.of(query), span.of(key), span.of(value), part,
                                  mask_within(mask, span), scale);
    span.of(std::get<0>(all)).copy_(d_query);
    span.of(std::get<1>(all)).copy_(d_key);
    span.of(std::get<2>(all)).copy_(d_value);
  }
  return all;
}

// [B,H,S,D] as [B·S,H,D], and back.
at::Tensor as_tokens(const at::Tensor& x) { return x.transpose(1, 2).flatten(0, 1); }

at::Tensor as_heads(const at::Tensor& tokens, const at::Tensor& like) {
  return tokens.view({like.size(0), like.size(2), tokens.size(1), tokens.size(2)}).transpose(1, 2);
}

std::optional<int64_t> window_to_the_left(const PrefixMask& mask) {
  return mask.window ? std::optional(*mask.window - 1) : std::nullopt;
}

std::optional<int64_t> window_to_the_right(const PrefixMask& mask) {
  return mask.window ? std::optional<int64_t>(0) : std::nullopt;
}

PrefixResult flash(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                   const PrefixMask& mask, double scale) {
  const auto& [starts, offsets, longest] = *mask.documents;
  const auto result = at::_flash_attention_forward(
      as_tokens(query), as_tokens(key), as_tokens(value), offsets, offsets, longest, longest, 0.0,
      /*is_causal=*/true, /*return_debug_mask=*/false, scale, window_to_the_left(mask),
      window_to_the_right(mask));
  const auto lse = std::get<1>(result);  // [H,B·S]
  return {as_heads(std::get<0>(result), query),
          lse.view({query.size(1), query.size(0), query.size(2)}).transpose(0, 1),
          std::get<2>(result), std::get<3>(result)};
}

/// A kernel that reads no more than the documents' own keys, forward alone.
class DocumentTiles {
 public:
  DocumentTiles(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value)
      : query_(query), key_(key), value_(value) {}

  bool fit(const PrefixMask& mask) const {
    const bool has_width = query_.size(3) == 64 || query_.size(3) == 128;
    return cuda::document_attention && has_width && are_chunks(query_) && are_chunks(key_) &&
           are_chunks(value_) && mask.documents->starts.stride(1) == 1;
  }

  PrefixResult attend(const PrefixMask& mask, double scale) const {
    const kernels::Launch launch("document_attention", query_);
    const int64_t batch = query_.size(0), heads = query_.size(1), length = query_.size(2);
    const auto output =
        at::empty({batch, length, heads, query_.size(3)}, query_.options()).transpose(1, 2);
    const auto lse =
        at::empty({heads, batch, length}, query_.options().dtype(at::kFloat)).transpose(0, 1);
    const auto& starts = mask.documents->starts;
    const cuda::DocumentAttentionShape shape{launch.type(),
                                             batch,
                                             heads,
                                             key_.size(1),
                                             length,
                                             query_.size(3),
                                             mask.window.value_or(length),
                                             scale};
    launch.check(cuda::document_attention(
        shape, {vectors_of(query_), vectors_of(key_), vectors_of(value_)},
        {starts.const_data_ptr<int64_t>(), starts.stride(0)}, vectors_of(output),
        lse.mutable_data_ptr<float>(), lse.stride(0), lse.stride(1), launch.stream()));
    const auto unused = at::empty({0}, starts.options());  // without dropout nothing is drawn
    return {output, lse, unused, unused};
  }

 private:
  // Vectors are read 16 bytes at a time.
  static bool are_chunks(const at::Tensor& x) {
    return x.stride(3) == 1 && x.stride(0) % 8 == 0 && x.stride(1) % 8 == 0 &&
           x.stride(2) % 8 == 0 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  }

  const at::Tensor &query_, &key_, &value_;
};

PrefixGradients flash_backward(const at::Tensor& grad, const at::Tensor& query,
                               const at::Tensor& key, const at::Tensor& value,
                               const PrefixResult& merged, const PrefixMask& mask, double scale) {
  const auto& [starts, offsets, longest] = *mask.documents;
  const auto [d_query, d_key, d_value] = at::_flash_attention_backward(
      as_tokens(grad), as_tokens(query), as_tokens(key), as_tokens(value), as_tokens(merged.output),
      merged.log_sum_exp.transpose(0, 1).flatten(1), offsets, offsets, longest, longest, 0.0,
      /*is_causal=*/true, merged.seed, merged.offset, scale, window_to_the_left(mask),
      window_to_the_right(mask));
  return {as_heads(d_query, query), as_heads(d_key, key), as_heads(d_value, value)};
}

}  // namespace

bool attends_by_document(const at::Tensor& query, const PrefixMask& mask) {
  if (!mask.documents || mask.key_mask.defined()) return false;
  const bool is_half = query.scalar_type() == at::kHalf || query.scalar_type() == at::kBFloat16;
  return query.is_cpu() ||
         (query.is_cuda() && is_half && query.size(3) % 8 == 0 && query.size(3) <= 256);
}

PrefixResult document_attention(const at::Tensor& query, const at::Tensor& key,
                                const at::Tensor& value, const PrefixMask& mask, double scale) {
  if (query.is_cpu()) return one_by_one(query, key, value, mask, scale);
  const DocumentTiles tiles(query, key, value);
  return tiles.fit(mask) ? tiles.attend(mask, scale) : flash(query, key, value, mask, scale);
}

PrefixGradients document_attention_backward(const at::Tensor& grad, const at::Tensor& query,
                                            const at::Tensor& key, const at::Tensor& value,
                                            const PrefixResult& merged, const PrefixMask& mask,
                                            double scale) {
  return query.is_cpu() ? one_by_one_backward(grad, query, key, value, merged, mask, scale)
                        : flash_backward(grad, query, key, value, merged, mask, scale);
}

}  // namespace outrider::ops
