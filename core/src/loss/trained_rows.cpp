#include "outrider/loss/trained_rows.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace outrider::loss {
namespace {

// Per position, whether it and the one before are tokens of one document, [B,S] bool.
at::Tensor continues(const TrainBatch& batch) {
  auto result = at::ones_like(batch.input_ids, at::kBool);
  if (batch.attention_mask.defined()) {
    const auto is_token = batch.attention_mask.ne(0);
    result.slice(1, 1).logical_and_(is_token.slice(1, 1)).logical_and_(is_token.slice(1, 0, -1));
  }
  if (batch.document_ids.defined()) {
    const auto& documents = batch.document_ids;
    result.slice(1, 1).logical_and_(documents.slice(1, 1).eq(documents.slice(1, 0, -1)));
  }
  return result;
}

// Which of the first `kept` rows everything up to `ahead` positions later is connected with,
// [B,kept] bool.
at::Tensor connected_rows(const TrainBatch& batch, int64_t kept, int64_t ahead) {
  const auto next = continues(batch);
  auto connected = next.slice(1, 1, 1 + kept);
  for (int64_t offset = 2; offset <= ahead; ++offset) {
    connected = at::logical_and(connected, next.slice(1, offset, offset + kept));
  }
  return connected;
}

at::Tensor allowed_rows(const TrainBatch& batch, int64_t kept, int64_t ahead, RowRule rule) {
  if (rule == RowRule::kConnected && kept > 0) return connected_rows(batch, kept, ahead);
  const bool is_free = rule == RowRule::kAny || !batch.attention_mask.defined();
  return is_free ? at::ones_like(batch.input_ids.slice(1, 0, kept), at::kBool)
                 : batch.attention_mask.slice(1, 0, kept).ne(0);
}

// The places in weights [N] of those that are not 0, or of more: see trained_rows().
at::Tensor places_that_count(const at::Tensor& weights, std::optional<int64_t> most) {
  if (weights.is_cpu()) return weights.nonzero().flatten();
  if (!most || *most >= weights.size(0)) {
    return at::arange(weights.size(0), weights.options().dtype(at::kLong));
  }
  const auto left_out = weights.eq(0).to(at::kByte);
  return at::argsort(left_out, /*stable=*/true, /*dim=*/0, /*descending=*/false).slice(0, 0, most);
}

}  // namespace

at::Tensor TrainedRows::index(int64_t offset) const {
  return sequence * length + position + offset;
}

TrainedRows trained_rows(const at::Tensor& weights, int64_t length, std::optional<int64_t> most) {
  const int64_t per_sequence = std::max<int64_t>(1, weights.size(1));
  const auto flat = weights.flatten();
  const auto index = places_that_count(flat, most);
  return {length, at::floor_divide(index, per_sequence), at::remainder(index, per_sequence),
          flat.index_select(0, index)};
}

at::Tensor within_documents(const TrainBatch& batch, int64_t ahead) {
  const int64_t kept = batch.input_ids.size(1) - ahead;
  if (!batch.documents) {
    return at::ones({1, 1}, batch.input_ids.options().dtype(at::kFloat))
        .expand({batch.input_ids.size(0), kept});
  }
  const auto& starts = batch.documents->starts;
  return starts.slice(1, 0, kept).eq(starts.slice(1, ahead)).to(at::kFloat);
}

ShiftedTargets shifted_targets(const TrainBatch& batch, int64_t ahead, RowRule rule) {
  const auto targets = token_targets(batch);
  const int64_t length = targets.ids.size(1);
  const int64_t kept = std::clamp<int64_t>(length - ahead, 0, batch.own_rows());
  auto mask = targets.mask.slice(1, ahead, ahead + kept) * allowed_rows(batch, kept, ahead, rule);
  if (batch.documents) mask = mask * within_documents(batch, ahead).slice(1, 0, kept);
  auto rows = trained_rows(mask, length, batch.most_targets);
  auto labels = targets.ids.flatten().index_select(0, rows.index(ahead));
  return {std::move(rows), std::move(labels)};
}

}  // namespace outrider::loss
