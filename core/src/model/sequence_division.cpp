#include "model/sequence_division.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "outrider/error.h"
#include "outrider/problems.h"

namespace outrider {
namespace {

constexpr int64_t kNoLabel = -100;

bool trains_the_base(const CausalLM& model) {
  return at::GradMode::is_enabled() && !model.has_edit(BaseEdit::kFreezeParameters);
}

bool every_draft_divides(const CausalLM& model) {
  return std::ranges::all_of(model.speculative_state(), [](const auto& attached) {
    return attached.draft->sequence_needs().has_value();
  });
}

// Rows [begin, end) of a tensor [B,S], and `fill` where it has none.
at::Tensor stretch(const at::Tensor& rows, int64_t begin, int64_t end, int64_t fill) {
  const int64_t size = rows.size(1);
  const auto there = rows.slice(1, std::min(begin, size), std::min(end, size));
  return at::constant_pad_nd(there, {0, end - begin - there.size(1)}, fill);
}

// The first `count` rows of the successor's tensor [B,L,n].
at::Tensor rows_of_successor(const at::Tensor& own, int64_t count, SequenceShare& share) {
  const auto first = own.slice(1, 0, count);
  auto parts = at::zeros({share.count(), own.size(0), count, own.size(2)}, own.options());
  if (share.index() > 0) parts[share.index() - 1].copy_(first);
  const auto received = share.exchange(parts);
  const bool is_last = share.index() + 1 == share.count();
  return is_last ? at::zeros_like(first) : received[share.index() + 1];
}

}  // namespace

void require_shared_training(const CausalLM& model, const ForwardInput& input,
                             const TrainBatch& batch) {
  const auto& given = input.batch;
  Problems problems;
  problems.add_when(!model.divides_sequences(), "a base that runs on whole sequences alone");
  problems.add_when(trains_the_base(model), "a base that is trained");
  problems.add_when(!every_draft_divides(model), "a draft that does not say what it needs");
  problems.add_when(input.base_outputs.has_value(), "stored outputs of the base");
  problems.add_when(input.want_logits || input.want_lm_loss, "the base's own logits or loss");
  const bool reads_padding = model.hidden_states_needed().at_padding;
  problems.add_when(reads_padding, "drafts that read the base's outputs at padding");
  problems.add_when(batch.key_mask.defined() && !reads_padding,
                    "padding elsewhere than on the right");
  problems.add_when(given.position_ids.defined(), "position_ids");
  problems.add_when(given.document_ids.defined(), "document_ids");
  problems.add_when(!given.extras.empty(), "tensors for single algorithms");
  problems.add_when(static_cast<bool>(given.recorder), "a recorder");
  problems.throw_in_a_line(ErrorCode::kUnsupported, "several processes cannot share sequences with",
                           "let each process have whole sequences");
}

int64_t positions_ahead(const CausalLM& model) {
  int64_t ahead = 0;
  for (const auto& attached : model.speculative_state()) {
    ahead = std::max(ahead, attached.draft->sequence_needs().value().positions_ahead);
  }
  return ahead;
}

TrainBatch own_part(const TrainBatch& batch, std::shared_ptr<SequenceShare> share, int64_t ahead) {
  const int64_t length = batch.input_ids.size(1), count = share->count();
  const int64_t rows = std::max((length + count - 1) / count, ahead);
  const int64_t begin = share->index() * rows, end = begin + rows + ahead;
  const auto tokens =
      batch.attention_mask.defined() ? batch.attention_mask : at::ones_like(batch.input_ids);
  auto part = batch;
  part.input_ids = stretch(batch.input_ids, begin, end, 0);
  part.attention_mask = stretch(tokens, begin, end, 0);
  part.position_ids = at::arange(begin, end, batch.input_ids.options()).unsqueeze(0);
  if (batch.loss_mask.defined()) part.loss_mask = stretch(batch.loss_mask, begin, end, 0);
  if (batch.labels.defined()) part.labels = stretch(batch.labels, begin, end, kNoLabel);
  part.part = SequencePart{std::move(share), rows, length};
  return part;
}

BaseOutputs shared_base_pass(CausalLM& model, const BasePass& pass, const SequencePart& part) {
  const int64_t ahead = pass.input_ids.size(1) - part.rows;
  auto own = pass;
  own.input_ids = pass.input_ids.slice(1, 0, part.rows);
  own.position_ids = pass.position_ids.slice(1, 0, part.rows);
  own.part = &part;
  auto base = model.run_base(own);
  const auto tensors = hidden_states_of(base);
  std::vector<at::Tensor> side_by_side;
  std::vector<int64_t> widths;
  for (const auto* tensor : tensors) {
    side_by_side.push_back(tensor->slice(1, 0, ahead));
    widths.push_back(tensor->size(2));
  }
  const auto next =
      rows_of_successor(at::cat(side_by_side, 2), ahead, *part.share).split_with_sizes(widths, 2);
  for (size_t i = 0; i < tensors.size(); ++i) *tensors[i] = at::cat({*tensors[i], next[i]}, 1);
  return base;
}

}  // namespace outrider
