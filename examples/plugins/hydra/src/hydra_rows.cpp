#include "hydra_rows.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace hydra {
namespace {

// Per position, whether it continues the one before: both are tokens of one document. [B,S] bool.
at::Tensor continues(const outrider::TrainBatch& batch) {
  auto result = at::ones_like(batch.input_ids, at::kBool);
  const auto both = [&](const at::Tensor& now, const at::Tensor& before) {
    result.slice(1, 1).logical_and_(now).logical_and_(before);
  };
  if (batch.attention_mask.defined()) {
    const auto is_token = batch.attention_mask.ne(0);
    both(is_token.slice(1, 1), is_token.slice(1, 0, -1));
  }
  if (batch.document_ids.defined()) {
    const auto same = batch.document_ids.slice(1, 1).eq(batch.document_ids.slice(1, 0, -1));
    both(same, same);
  }
  return result;
}

HeadRows without_untrained(const HeadRows& all) {
  const auto trained = all.mask.nonzero().flatten();
  return {all.reach, all.rows.index_select(0, trained), all.labels.index_select(0, trained),
          all.mask.index_select(0, trained)};
}

}  // namespace

std::vector<HeadRows> head_rows(const outrider::TrainBatch& batch, int64_t heads) {
  const auto targets = outrider::token_targets(batch);
  const auto index = at::arange(targets.ids.numel(), targets.ids.options()).view_as(targets.ids);
  const auto next = continues(batch);
  const int64_t length = targets.ids.size(1);
  auto connected = at::ones_like(next);  // [B,S]: from the row to `reach` positions later
  std::vector<HeadRows> result;
  for (int64_t reach = 1; reach <= heads + 1; ++reach) {
    const int64_t kept = std::max<int64_t>(0, length - reach);
    const auto later = [&](const at::Tensor& tensor) { return tensor.slice(1, length - kept); };
    connected = at::logical_and(connected.slice(1, 0, kept), later(next));
    if (reach == 1) continue;  // the base's own prediction
    const auto mask = later(targets.mask) * connected;
    const HeadRows all{reach, index.slice(1, 0, kept).flatten(), later(targets.ids).flatten(),
                       mask.flatten()};
    result.push_back(mask.is_cpu() ? without_untrained(all) : all);
  }
  return result;
}

}  // namespace hydra
