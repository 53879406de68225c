#include "ops/diagonal_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "kernels/cuda/diagonal_attention.h"
#include "ops/head_vectors.h"
#include "outrider/kernels/accumulation.h"
#include "outrider/kernels/launch.h"

namespace outrider::ops {
namespace {

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

/// In plain ATen, all diagonals at once, in the accumulation type and grouped by key head.
class ComposedDiagonals {
 public:
  ComposedDiagonals(const at::Tensor& query, const Diagonals& diagonals, double scale)
      : heads_(diagonals.keys[0].size(1)),
        scale_(scale),
        query_(widened_groups(query)),
        keys_(stacked(diagonals.keys)),
        values_(stacked(diagonals.values)),
        scores_((query_ * keys_).sum(-1) * scale) {
    if (!diagonals.masks.defined()) return;
    const auto unseen = at::logical_not(diagonals.masks).unsqueeze(2).unsqueeze(2);
    scores_ = scores_.masked_fill(unseen, kMinusInfinity);
  }

  void merge(PrefixResult& prefix) const {
    const auto before = grouped(prefix.log_sum_exp, heads_);
    const auto lse = at::logaddexp(before, at::logsumexp(scores_, 0));
    const auto weights = weight_of(scores_, lse).unsqueeze(-1);
    const auto output = widened_groups(prefix.output) * weight_of(before, lse).unsqueeze(-1) +
                        (weights * values_).sum(0);
    prefix.output = output.reshape(prefix.output.sizes()).to(prefix.output.scalar_type());
    prefix.log_sum_exp = lse.reshape(prefix.log_sum_exp.sizes());
  }

  // w = e^(s - lse), D = Σ dO·out: ds = w (dO·v - D), dv = w dO; the queries of a group add up.
  void backward(const at::Tensor& grad, const PrefixResult& merged,
                const DiagonalGradients& gradients) const {
    const auto& d_query = gradients.query;
    const auto type = d_query.scalar_type();
    const auto d_out = widened_groups(grad);
    const auto weights = weight_of(scores_, grouped(merged.log_sum_exp, heads_));
    const auto delta = (d_out * widened_groups(merged.output)).sum(-1);
    const auto d_scores = (weights * ((d_out * values_).sum(-1) - delta) * scale_).unsqueeze(-1);
    d_query.add_((d_scores * keys_).sum(0).reshape(d_query.sizes()).to(type));
    const auto d_keys = (d_scores * query_).sum(3);
    const auto d_values = (weights.unsqueeze(-1) * d_out).sum(3);
    for (size_t j = 0; j < gradients.keys.size(); ++j) {
      gradients.keys[j].copy_(d_keys[static_cast<int64_t>(j)]);
      gradients.values[j].copy_(d_values[static_cast<int64_t>(j)]);
    }
  }

 private:
  at::Tensor widened_groups(const at::Tensor& x) const { return grouped(widened(x), heads_); }

  static at::Tensor stacked(at::TensorList vectors) {
    return widened(at::stack(vectors)).unsqueeze(3);
  }

  int64_t heads_;
  double scale_;
  at::Tensor query_;          // [B,Hkv,G,S,D]
  at::Tensor keys_, values_;  // [J,B,Hkv,1,S,D]
  at::Tensor scores_;         // [J,B,Hkv,G,S]; -inf where masked
};

at::Tensor by_vectors(const at::Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); }

/// A tensor that kernels write, or where its vectors do not lie together another in its place.
class Written {
 public:
  explicit Written(const at::Tensor& target) : target_(target), tensor_(by_vectors(target)) {}

  const at::Tensor& tensor() const { return tensor_; }
  void finish() const {
    if (!tensor_.is_same(target_)) target_.copy_(tensor_);
  }

 private:
  at::Tensor target_, tensor_;
};

/// By kernels, at most kMaxDiagonals in a launch. Merging is associative: each launch takes what
/// the one before made for its prefix.
class CudaDiagonals {
 public:
  CudaDiagonals(const at::Tensor& query, const Diagonals& diagonals, double scale)
      : launch_("diagonal_attention", query),
        query_(by_vectors(query)),
        masks_(diagonals.masks.defined() ? diagonals.masks.contiguous() : at::Tensor()),
        shape_{launch_.type(), query.size(0), query.size(1), diagonals.keys[0].size(1),
               query.size(2),  query.size(3), scale} {
    for (const auto& key : diagonals.keys) keys_.push_back(by_vectors(key));
    for (const auto& value : diagonals.values) values_.push_back(by_vectors(value));
  }

  static bool can(const at::Tensor& query, const Diagonals& diagonals) {
    if (!query.is_cuda()) return false;
    if (!cuda::merge_diagonals) kernels::throw_no_kernel("diagonal_attention");
    return query.size(3) <= cuda::kLongestDiagonalVector &&
           CudaDiagonals(query, diagonals, 1.0).per_launch() > 0;
  }

  void merge(PrefixResult& prefix) const {
    prefix.output = by_vectors(prefix.output);
    prefix.log_sum_exp = prefix.log_sum_exp.contiguous();
    for_each_launch([&](size_t first, size_t end) {
      return cuda::merge_diagonals(shape_, vectors_of(query_), diagonals(first, end),
                                   vectors_of(prefix.output), prefix.log_sum_exp.data_ptr(),
                                   launch_.stream());
    });
  }

  void backward(const at::Tensor& grad, const PrefixResult& merged,
                const DiagonalGradients& gradients) const {
    const auto d_out = by_vectors(grad), output = by_vectors(merged.output);
    const auto lse = merged.log_sum_exp.contiguous();
    const Written sum(gradients.query);
    std::vector<Written> keys, values;
    for (size_t j = 0; j < keys_.size(); ++j) {
      keys.emplace_back(gradients.keys[j]);
      values.emplace_back(gradients.values[j]);
    }
    for_each_launch([&](size_t first, size_t end) {
      cuda::DiagonalGradients targets{};
      for (size_t j = first; j < end; ++j) {
        targets.at[j - first] = {vectors_of(keys[j].tensor()), vectors_of(values[j].tensor())};
      }
      return cuda::merge_diagonals_backward(
          shape_, vectors_of(d_out), vectors_of(query_), diagonals(first, end), vectors_of(output),
          lse.const_data_ptr(), vectors_of(sum.tensor()), targets, launch_.stream());
    });
    sum.finish();
    for (size_t j = 0; j < keys.size(); ++j) {
      keys[j].finish();
      values[j].finish();
    }
  }

 private:
  size_t per_launch() const { return static_cast<size_t>(cuda::diagonals_per_launch(shape_)); }

  template <class LaunchRange>
  void for_each_launch(const LaunchRange& launch_range) const {
    if (query_.numel() == 0) return;
    const size_t step = per_launch();
    for (size_t first = 0; first < keys_.size(); first += step) {
      launch_.check(launch_range(first, std::min(first + step, keys_.size())));
    }
  }

  cuda::Diagonals diagonals(size_t first, size_t end) const {
    cuda::Diagonals some{static_cast<int>(end - first), {}};
    for (size_t j = first; j < end; ++j) {
      const bool* mask =
          masks_.defined() ? masks_[static_cast<int64_t>(j)].const_data_ptr<bool>() : nullptr;
      some.at[j - first] = {vectors_of(keys_[j]), vectors_of(values_[j]), mask};
    }
    return some;
  }

  kernels::Launch launch_;
  at::Tensor query_, masks_;
  std::vector<at::Tensor> keys_, values_;
  cuda::DiagonalAttentionShape shape_;
};

}  // namespace

void merge_diagonals(PrefixResult& prefix, const at::Tensor& query, const Diagonals& diagonals,
                     double scale) {
  if (CudaDiagonals::can(query, diagonals)) {
    return CudaDiagonals(query, diagonals, scale).merge(prefix);
  }
  ComposedDiagonals(query, diagonals, scale).merge(prefix);
}

void merge_diagonals_backward(const at::Tensor& grad, const at::Tensor& query,
                              const Diagonals& diagonals, const PrefixResult& merged, double scale,
                              const DiagonalGradients& gradients) {
  if (CudaDiagonals::can(query, diagonals)) {
    return CudaDiagonals(query, diagonals, scale).backward(grad, merged, gradients);
  }
  ComposedDiagonals(query, diagonals, scale).backward(grad, merged, gradients);
}

}  // namespace outrider::ops
