#include "outrider/ops/attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "ops/diagonal_attention.h"
#include "ops/prefix_attention.h"
#include "outrider/error.h"

namespace outrider::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Which keys may be attended to; a struct, so that autograd does not take them for inputs.
struct Masks {
  PrefixMask prefix;
  at::Tensor diagonals;  // [J,B,S] bool or undefined
};

double scale_of(const at::Tensor& query) {
  return 1.0 / std::sqrt(static_cast<double>(query.size(3)));
}

/// The first positions of keys or values, as many as there are queries.
class FirstPositions {
 public:
  explicit FirstPositions(const at::Tensor& query) : count_(query.size(2)) {}

  at::Tensor of(const at::Tensor& x) const {
    return x.size(2) == count_ ? x : x.slice(2, 0, count_);
  }

  std::vector<at::Tensor> of(at::TensorList all) const {
    std::vector<at::Tensor> first;
    for (const auto& x : all) first.push_back(of(x));
    return first;
  }

  /// A gradient like x of which nothing but zeros beyond the first positions is written.
  at::Tensor gradient_like(const at::Tensor& x) const {
    auto gradient = at::empty_like(x);
    if (x.size(2) > count_) gradient.slice(2, count_).zero_();
    return gradient;
  }

  /// The gradient of x, given that of the first positions.
  at::Tensor extended(at::Tensor first, const at::Tensor& x) const {
    if (x.size(2) == count_) return first;
    auto gradient = gradient_like(x);
    gradient.slice(2, 0, count_).copy_(first);
    return gradient;
  }

 private:
  int64_t count_;
};

struct PrefixDiagonalAttention : torch::autograd::Function<PrefixDiagonalAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, at::TensorList diagonal_keys,
                            at::TensorList diagonal_values, const Masks& masks) {
    const FirstPositions first(query);
    auto result =
        prefix_attention(query, first.of(key), first.of(value), masks.prefix, scale_of(query));
    if (!diagonal_keys.empty()) {
      const auto keys = first.of(diagonal_keys), values = first.of(diagonal_values);
      merge_diagonals(result, query, {keys, values, masks.diagonals}, scale_of(query));
    }
    const auto documents = masks.prefix.documents.value_or(Documents{});
    variable_list saved = {query,
                           key,
                           value,
                           result.output,
                           result.log_sum_exp,
                           result.seed,
                           result.offset,
                           masks.prefix.key_mask,
                           masks.diagonals,
                           documents.starts,
                           documents.offsets};
    saved.insert(saved.end(), diagonal_keys.begin(), diagonal_keys.end());
    saved.insert(saved.end(), diagonal_values.begin(), diagonal_values.end());
    ctx->save_for_backward(std::move(saved));
    keep(ctx, masks.prefix);
    return result.output;
  }

  // What of a mask is no tensor.
  static void keep(AutogradContext* ctx, const PrefixMask& mask) {
    if (mask.window) ctx->saved_data["window"] = *mask.window;
    if (mask.documents) ctx->saved_data["longest"] = mask.documents->longest;
  }

  static PrefixMask kept_mask(AutogradContext* ctx, const at::Tensor& key_mask,
                              const at::Tensor& starts, const at::Tensor& offsets) {
    PrefixMask mask{key_mask, {}, {}};
    const auto window = ctx->saved_data.find("window");
    if (window != ctx->saved_data.end()) mask.window = window->second.toInt();
    const auto longest = ctx->saved_data.find("longest");
    if (longest != ctx->saved_data.end()) {
      mask.documents = Documents{starts, offsets, longest->second.toInt()};
    }
    return mask;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    constexpr size_t kBeforeDiagonals = 11;
    const auto saved = ctx->get_saved_variables();
    const auto &query = saved[0], &key = saved[1], &value = saved[2];
    const FirstPositions first(query);
    const PrefixResult merged{saved[3], saved[4], saved[5], saved[6]};
    const auto mask = kept_mask(ctx, saved[7], saved[9], saved[10]);
    auto [d_query, d_key, d_value] = prefix_attention_backward(
        grads[0], query, first.of(key), first.of(value), merged, mask, scale_of(query));
    variable_list results = {d_query, first.extended(std::move(d_key), key),
                             first.extended(std::move(d_value), value)};
    const auto vectors = at::TensorList(saved).slice(kBeforeDiagonals);
    if (const size_t count = vectors.size() / 2) {
      const auto read = first.of(vectors);
      for (const auto& vector : vectors) results.push_back(first.gradient_like(vector));
      const auto written = first.of(at::TensorList(results).slice(results.size() - vectors.size()));
      const auto inputs = at::TensorList(read), gradients = at::TensorList(written);
      merge_diagonals_backward(
          grads[0], query, {inputs.slice(0, count), inputs.slice(count), saved[8]}, merged,
          scale_of(query), {d_query, gradients.slice(0, count), gradients.slice(count)});
    }
    results.emplace_back();
    return results;
  }
};

void check_shapes(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  const bool fits = query.dim() == 4 && key.dim() == 4 && key.sizes() == value.sizes() &&
                    key.size(2) >= query.size(2) && key.size(3) == query.size(3) &&
                    key.size(1) > 0 && query.size(1) % key.size(1) == 0;
  if (!fits) {
    throw Error(ErrorCode::kInternal,
                "attention: query [B,H,S,D], keys and values [B,Hkv,S or more,D]");
  }
}

}  // namespace

at::Tensor prefix_diagonal_attention(const at::Tensor& query, const at::Tensor& prefix_key,
                                     const at::Tensor& prefix_value,
                                     const std::vector<DiagonalKeys>& diagonals,
                                     const at::Tensor& key_mask,
                                     const std::vector<at::Tensor>& diagonal_masks,
                                     const std::optional<Documents>& documents) {
  check_shapes(query, prefix_key, prefix_value);
  std::vector<at::Tensor> keys, values;
  for (const auto& diagonal : diagonals) {
    check_shapes(query, diagonal.key, diagonal.value);
    keys.push_back(diagonal.key);
    values.push_back(diagonal.value);
  }
  const auto mask = diagonal_masks.empty() ? at::Tensor() : at::stack(diagonal_masks);
  return PrefixDiagonalAttention::apply(query, prefix_key, prefix_value, at::TensorList(keys),
                                        at::TensorList(values),
                                        Masks{{key_mask, {}, documents}, mask});
}

at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const at::Tensor& key_mask, std::optional<int64_t> window,
                            const std::optional<Documents>& documents) {
  check_shapes(query, key, value);
  if (window && *window >= query.size(2)) window.reset();
  if (window && *window < 1) throw Error(ErrorCode::kInternal, "causal_attention: window below 1");
  return PrefixDiagonalAttention::apply(query, key, value, at::TensorList(), at::TensorList(),
                                        Masks{{key_mask, window, documents}, at::Tensor()});
}

}  // namespace outrider::ops
