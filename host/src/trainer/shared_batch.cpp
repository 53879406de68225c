#include "trainer/shared_batch.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "data/batches.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

std::vector<at::Tensor*> shares_in(ForwardOutput& output) {
  std::vector<at::Tensor*> shares = {&output.loss};
  if (output.lm_loss.defined()) shares.push_back(&output.lm_loss);
  for (auto& draft : output.draft_losses) {
    shares.push_back(&draft.total);
    for (auto& step : draft.steps) {
      for (auto* value : {&step.loss, &step.accuracy, &step.overlap, &step.count}) {
        shares.push_back(value);
      }
    }
  }
  return shares;
}

}  // namespace

SharedBatches::SharedBatches(ProcessGroup& processes, const TrainingData& data,
                             const CausalLM& model, int64_t max_length,
                             std::shared_ptr<SequenceShare> sequences)
    : processes_(processes),
      data_(data),
      model_(model),
      max_length_(max_length),
      sequences_(std::move(sequences)) {}

Batch SharedBatches::own(const Batch& batch) const {
  const int64_t together = sequences_ ? sequences_->count() : 1;
  const int64_t index = processes_.rank() / together, parts = processes_.size() / together;
  const auto count = static_cast<int64_t>(batch.size());
  return {batch.begin() + count * index / parts, batch.begin() + count * (index + 1) / parts};
}

TrainingInput SharedBatches::part(const Batch& whole) {
  auto part = own(whole);
  const bool is_empty = part.empty();
  if (is_empty) part.push_back(whole.front());
  auto input = data_.batch(part, max_length_, data_.width(whole, max_length_));
  auto& batch = input.forward.batch;
  if (is_empty) batch.loss_mask.zero_();
  const bool counts_here = !sequences_ || sequences_->index() == 0;
  if (is_empty || !counts_here) input.counts = {};
  input.forward.sequence_share = sequences_;
  counts_summed_ = 0;
  batch.sum_over_processes = [this](const at::Tensor& values) {
    ++counts_summed_;
    return processes_.sum(values);
  };
  return input;
}

void SharedBatches::complete(ForwardOutput& output, TokenCounts& counts) const {
  const auto losses = output.draft_losses.size() + (output.lm_loss.defined() ? 1 : 0);
  if (counts_summed_ < static_cast<int64_t>(losses)) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("several processes cannot train {}: its loss does not divide by "
                            "TrainBatch::total_count",
                            join(mode_names(model_), ", ")),
                "train with one process");
  }
  const auto shares = shares_in(output);
  std::vector<at::Tensor> values;
  for (const auto* share : shares) values.push_back(share->detach().to(at::kDouble));
  const auto whole = processes_.sum(at::stack(values)).unbind();
  for (size_t i = 0; i < shares.size(); ++i) *shares[i] = whole[i];
  // The host knows these: to ask the device would be to wait for it.
  const auto sums = processes_.sum(at::tensor({counts.tokens, counts.trained}, at::kLong));
  counts = {sums[0].item<int64_t>(), sums[1].item<int64_t>()};
}

}  // namespace outrider
