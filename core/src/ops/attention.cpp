#include "outrider/ops/attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>

#include "ops/prefix_attention.h"
#include "outrider/error.h"
#include "outrider/kernels/accumulation.h"

namespace outrider::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// [B,H,...] as [B,Hkv,H/Hkv,...], so that keys broadcast over their group of queries.
at::Tensor grouped(const at::Tensor& x, int64_t groups) {
  auto sizes = x.sizes().vec();
  sizes.insert(sizes.begin() + 2, sizes[1] / groups);
  sizes[1] = groups;
  return x.reshape(sizes);
}

// e^(a - b) where b = -inf means that there was nothing to attend to: 0.
at::Tensor weight_of(const at::Tensor& a, const at::Tensor& b) {
  return at::exp(a - b.clamp_min(std::numeric_limits<float>::lowest()));
}

/// Which keys may be attended to; a struct, so that autograd does not take them for inputs.
struct Masks {
  PrefixMask prefix;
  at::Tensor diagonals;  // [J,B,S] bool or undefined
};

/// J diagonals in the accumulation type, grouped by key head.
struct Diagonals {
  at::Tensor key, value;  // [J,B,Hkv,1,S,D]
  at::Tensor scores;      // [J,B,Hkv,G,S], scaled; -inf where masked
};

// query [B,Hkv,G,S,D] in the accumulation type; key, value [J,B,Hkv,S,D].
Diagonals score_diagonals(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                          const at::Tensor& mask, double scale) {
  const auto type = query.scalar_type();
  Diagonals diagonals{key.to(type).unsqueeze(3), value.to(type).unsqueeze(3), {}};
  diagonals.scores = (query * diagonals.key).sum(-1) * scale;
  if (mask.defined()) {
    diagonals.scores = diagonals.scores.masked_fill(at::logical_not(mask).unsqueeze(2).unsqueeze(2),
                                                    kMinusInfinity);
  }
  return diagonals;
}

struct PrefixDiagonalAttention : torch::autograd::Function<PrefixDiagonalAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, const at::Tensor& diagonal_key,
                            const at::Tensor& diagonal_value, const Masks& masks) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(query.size(3)));
    auto result = prefix_attention(query, key, value, masks.prefix, scale);
    if (diagonal_key.numel() > 0) {
      merge(result, query, diagonal_key, diagonal_value, masks.diagonals, scale);
    }
    ctx->save_for_backward({query, key, value, diagonal_key, diagonal_value, result.output,
                            result.log_sum_exp, result.seed, result.offset, masks.prefix.key_mask,
                            masks.diagonals});
    if (masks.prefix.window) ctx->saved_data["window"] = *masks.prefix.window;
    return result.output;
  }

  static void merge(PrefixResult& prefix, const at::Tensor& query, const at::Tensor& key,
                    const at::Tensor& value, const at::Tensor& mask, double scale) {
    const int64_t heads = key.size(2);
    const auto q = grouped(query.to(accumulation_type(query)), heads);
    const auto diagonals = score_diagonals(q, key, value, mask, scale);
    const auto prefix_lse = grouped(prefix.log_sum_exp, heads);
    const auto lse = at::logaddexp(prefix_lse, at::logsumexp(diagonals.scores, 0));
    const auto weights = weight_of(diagonals.scores, lse).unsqueeze(-1);
    const auto output = grouped(prefix.output.to(q.scalar_type()), heads) *
                            weight_of(prefix_lse, lse).unsqueeze(-1) +
                        (weights * diagonals.value).sum(0);
    prefix.output = output.reshape(query.sizes()).to(query.scalar_type());
    prefix.log_sum_exp = lse.reshape(prefix.log_sum_exp.sizes());
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &query = saved[0], &key = saved[1], &value = saved[2];
    const PrefixResult merged{saved[5], saved[6], saved[7], saved[8]};
    const double scale = 1.0 / std::sqrt(static_cast<double>(query.size(3)));
    PrefixMask mask{saved[9], {}};
    const auto window = ctx->saved_data.find("window");
    if (window != ctx->saved_data.end()) mask.window = window->second.toInt();
    auto [d_query, d_key, d_value] =
        prefix_attention_backward(grads[0], query, key, value, merged, mask, scale);
    if (saved[3].numel() == 0) return {d_query, d_key, d_value, {}, {}, {}};
    const auto diagonals = diagonal_backward(grads[0], saved, scale);
    return {d_query + diagonals.query, d_key, d_value, diagonals.key, diagonals.value, {}};
  }

  struct DiagonalGradients {
    at::Tensor query, key, value;
  };

  // w = e^(s - lse), D = Σ dO·out: ds = w (dO·v - D), dv = w dO; the queries of a group add up.
  static DiagonalGradients diagonal_backward(const at::Tensor& grad, const variable_list& saved,
                                             double scale) {
    const auto& query = saved[0];
    const int64_t heads = saved[1].size(1);
    const auto type = accumulation_type(query);
    const auto q = grouped(query.to(type), heads);
    const auto d_out = grouped(grad.to(type), heads);
    const auto diagonals = score_diagonals(q, saved[3], saved[4], saved[10], scale);
    const auto weights = weight_of(diagonals.scores, grouped(saved[6], heads));
    const auto delta = (d_out * grouped(saved[5].to(type), heads)).sum(-1);
    const auto d_scores =
        (weights * ((d_out * diagonals.value).sum(-1) - delta) * scale).unsqueeze(-1);
    const auto to_input = [&](const at::Tensor& x) { return x.to(query.scalar_type()); };
    return {to_input((d_scores * diagonals.key).sum(0).reshape(query.sizes())),
            to_input((d_scores * q).sum(3)), to_input((weights.unsqueeze(-1) * d_out).sum(3))};
  }
};

// Autograd takes no undefined inputs: no diagonals are an empty tensor.
at::Tensor stacked(const std::vector<at::Tensor>& tensors, const at::Tensor& like) {
  return tensors.empty() ? at::empty({0}, like.options()) : at::stack(tensors);
}

void check_shapes(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  const bool fits = query.dim() == 4 && key.dim() == 4 && key.sizes() == value.sizes() &&
                    key.size(2) == query.size(2) && key.size(3) == query.size(3) &&
                    key.size(1) > 0 && query.size(1) % key.size(1) == 0;
  if (!fits) {
    throw Error(ErrorCode::kInternal, "attention: query [B,H,S,D], keys and values [B,Hkv,S,D]");
  }
}

}  // namespace

at::Tensor prefix_diagonal_attention(const at::Tensor& query, const at::Tensor& prefix_key,
                                     const at::Tensor& prefix_value,
                                     const std::vector<DiagonalKeys>& diagonals,
                                     const at::Tensor& key_mask,
                                     const std::vector<at::Tensor>& diagonal_masks) {
  check_shapes(query, prefix_key, prefix_value);
  std::vector<at::Tensor> keys, values;
  for (const auto& diagonal : diagonals) {
    check_shapes(query, diagonal.key, diagonal.value);
    keys.push_back(diagonal.key);
    values.push_back(diagonal.value);
  }
  const auto mask = diagonal_masks.empty() ? at::Tensor() : at::stack(diagonal_masks);
  return PrefixDiagonalAttention::apply(query, prefix_key, prefix_value, stacked(keys, query),
                                        stacked(values, query), Masks{{key_mask, {}}, mask});
}

at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const at::Tensor& key_mask, std::optional<int64_t> window) {
  check_shapes(query, key, value);
  if (window && *window >= query.size(2)) window.reset();
  if (window && *window < 1) throw Error(ErrorCode::kInternal, "causal_attention: window below 1");
  const auto none = stacked({}, query);
  return PrefixDiagonalAttention::apply(query, key, value, none, none,
                                        Masks{{key_mask, window}, at::Tensor()});
}

}  // namespace outrider::ops
