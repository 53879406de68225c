#pragma once

#include "ops/prefix_attention.h"

namespace outrider::ops {

/// Whether attention within mask.documents has a way that skips the pairs across them; else they
/// are masked like other pairs.
bool attends_by_document(const at::Tensor& query, const PrefixMask& mask);

/// prefix_attention() and its backward pass within mask.documents: on the CPU one after another, on
/// a GPU by a kernel of our own for heads of 64 and 128, else, and backward, by flash attention
/// over sequences of variable lengths (arXiv 2307.08691).
PrefixResult document_attention(const at::Tensor& query, const at::Tensor& key,
                                const at::Tensor& value, const PrefixMask& mask, double scale);
PrefixGradients document_attention_backward(const at::Tensor& grad, const at::Tensor& query,
                                            const at::Tensor& key, const at::Tensor& value,
                                            const PrefixResult& merged, const PrefixMask& mask,
                                            double scale);

}  // namespace outrider::ops
