#include "outrider/nn/cached_pass.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "outrider/error.h"
#include "outrider/ops/attention.h"
#include "outrider/ops/cached_attention.h"

namespace outrider::nn {
namespace {

// One row where all sequences are of one length, so that what follows from it is made once.
at::Tensor lengths_of(const KvCache& cache, at::Device device) {
  auto lengths = cache.lengths();
  if (std::all_of(lengths.begin(), lengths.end(), [&](auto n) { return n == lengths.front(); })) {
    return at::full({1, 1}, lengths.front(), at::TensorOptions(at::kLong).device(device));
  }
  return at::tensor(lengths, at::kLong).unsqueeze(1).to(device, /*non_blocking=*/true);
}

}  // namespace

CachedPass::CachedPass(KvCache& cache, int64_t new_rows, at::Device device, at::Tensor tree_mask)
    : cache_(cache),
      new_rows_(new_rows),
      tree_mask_(std::move(tree_mask)),
      lengths_(lengths_of(cache, device)),
      positions_(new_positions()) {}

CachedPass::CachedPass(KvCache& cache, int64_t new_rows, at::Tensor lengths, at::Tensor tree_mask)
    : cache_(cache),
      new_rows_(new_rows),
      is_of_device_(true),
      tree_mask_(std::move(tree_mask)),
      lengths_(std::move(lengths)),
      positions_(new_positions()) {}

at::Tensor CachedPass::new_positions() const {
  if (tree_mask_.defined()) {
    return lengths_ + (new_rows_ - tree_mask_.size(2) - 1) + tree_mask_.sum(2);
  }
  return new_rows_ == 1 ? lengths_ : lengths_ + at::arange(new_rows_, lengths_.options());
}

CosSin CachedPass::tables(RotaryEmbedding& rotary, at::ScalarType type) const {
  if (!is_of_device_) return rotary.tables(positions_, type);
  const auto name =
      fmt::format("tables of rotary embedding {} in {}", fmt::ptr(&rotary), c10::toString(type));
  return cache_.prepared<CosSin>(name, [&] {
    const auto all = at::arange(cache_.capacity(), positions_.options()).unsqueeze(0);
    return std::make_shared<CosSin>(rotary.tables(all, type));
  });
}

// A prompt of one row has nothing before it and goes the way of prompts.
bool CachedPass::may_be_few() const {
  return c10::InferenceMode::is_enabled() && ops::are_few_rows(cache_.batch_size(), new_rows_) &&
         cache_.longest() > 0;
}

FewRowsPlace CachedPass::place_of(int64_t layer, const FewRowsLayer& parts, const at::Tensor& rows,
                                  const CosSin& tables) {
  const auto like = rows.new_empty({rows.size(0), parts.key_heads, 0, parts.head_dim});
  const auto& slots = cache_.slots(layer, like, new_rows_);
  return {.keys = slots.key,
          .values = slots.value,
          .lengths = lengths_,
          .positions = positions_.contiguous(),
          .seen = tree_mask_.defined() ? tree_mask_.contiguous() : at::Tensor(),
          .tables = {tables.cos.contiguous(), tables.sin.contiguous()},
          .tables_by_position = is_of_device_};
}

std::optional<at::Tensor> CachedPass::few_rows(int64_t layer, const FewRowsLayer& parts,
                                               const at::Tensor& input, const at::Tensor& residual,
                                               const CosSin& tables) {
  // Of an older tree's rows nobody knows the positions.
  const bool has_older_tree = tree_mask_.defined() && tree_mask_.size(2) != new_rows_;
  if ((parts.window > 0 && has_older_tree) || !takes_few_rows(parts, input, residual)) {
    return std::nullopt;
  }
  const auto place = place_of(layer, parts, residual, tables);
  const auto name =
      fmt::format("buffers of {} rows, {} and {} heads of {}, {} wide", new_rows_, parts.heads,
                  parts.key_heads, parts.head_dim, parts.down.weight.size(1));
  auto& buffers = cache_.prepared<FewRowsBuffers>(name, [&] {
    return std::make_shared<FewRowsBuffers>(few_rows_buffers(parts, place, residual));
  });
  auto y = at::empty_like(residual);
  run_few_rows(parts, input, residual, place, buffers, y);
  return y;
}

// The slots of the m last rows begin where the tree does.
at::Tensor CachedPass::visible_in_tree(const at::Tensor& slots) const {
  const int64_t rows = tree_mask_.size(2);
  const auto in_tree = slots - (lengths_ + (new_rows_ - rows));  // [1 or B,L]
  const int64_t batch = std::max(in_tree.size(0), tree_mask_.size(0));
  const auto index = in_tree.clamp(0, rows - 1).unsqueeze(1);
  const auto seen =
      tree_mask_.expand({batch, -1, -1}).gather(2, index.expand({batch, new_rows_, slots.size(1)}));
  const auto place = in_tree.unsqueeze(1);
  return at::logical_or(place.lt(0), at::logical_and(seen, place.lt(rows)));
}

// Of the new rows of a tree the slot is not the position.
at::Tensor CachedPass::positions_of(const at::Tensor& slots) const {
  if (!tree_mask_.defined()) return slots;
  if (tree_mask_.size(2) != new_rows_) {
    throw Error(ErrorCode::kInternal, "CachedPass: a window with a tree of several passes");
  }
  const auto place = slots - lengths_.expand({positions_.size(0), 1});
  const auto known = positions_.gather(1, place.clamp(0, new_rows_ - 1));
  return at::where(place.lt(0), slots.expand_as(place), known);
}

// [1 or B,n,L] bool.
at::Tensor CachedPass::visible(std::optional<int64_t> window) const {
  const int64_t used = cache_.longest() + new_rows_;
  const auto slots = at::arange(used, lengths_.options()).unsqueeze(0);
  const auto own = positions_.unsqueeze(2);
  auto result = tree_mask_.defined() ? visible_in_tree(slots) : slots.unsqueeze(1).le(own);
  if (window) {
    result = at::logical_and(result, (own - positions_of(slots).unsqueeze(1)).lt(*window));
  }
  return result;
}

bool CachedPass::sees_everything() const {
  return new_rows_ == 1 && !tree_mask_.defined() && lengths_.size(0) == 1;
}

at::Tensor CachedPass::bias_for(std::optional<int64_t> window, at::ScalarType type) {
  if (window && *window >= cache_.longest() + new_rows_) window.reset();
  if (!window && sees_everything()) return {};
  auto& bias = biases_[window];
  if (!bias.defined()) {
    const auto hidden = at::logical_not(visible(window));
    bias = at::zeros(hidden.sizes(), hidden.options().dtype(type))
               .masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  }
  return bias;
}

at::Tensor CachedPass::attend(int64_t layer, const QueryKeyValue& rows,
                              std::optional<int64_t> window) {
  if (is_of_device_) {
    throw Error(ErrorCode::kInternal, "CachedPass: lengths of the device, of more than few rows");
  }
  const auto all = cache_.append(layer, rows.key, rows.value);
  if (cache_.longest() == 0 && !tree_mask_.defined()) {
    return ops::causal_attention(rows.query, rows.key, rows.value, {}, window);
  }
  const auto type = rows.query.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return ops::cached_attention(rows.query, all.key, all.value, bias_for(window, type));
}

}  // namespace outrider::nn
