#include "data/batches.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "outrider/error.h"

namespace outrider {
namespace {

void check_vocabulary(const TokenShards& shards, const CausalLM& model) {
  if (shards.vocab_size() <= model.config().vocab_size) return;
  throw Error(ErrorCode::kInvalidData,
              fmt::format("the data has token ids up to a vocabulary of {}, the model has {}",
                          shards.vocab_size(), model.config().vocab_size),
              "prepare the data with this model's tokenizer: outrider data prepare");
}

// Of the tokens that are trained on, rounded up: kernels are planned, and passes recorded, for each
// number of a loss's rows.
int64_t most_targets(const TrainBatch& batch) {
  constexpr int64_t kParts = 16, kFewest = 256;
  const int64_t positions = batch.input_ids.numel();
  const int64_t step = std::max(kFewest, (positions + kParts - 1) / kParts);
  const auto count = token_targets(batch).mask.count_nonzero().item<int64_t>();
  return (count + step - 1) / step * step;
}

at::Tensor to_device(const at::Tensor& tensor, at::Device device) {
  if (!tensor.defined() || device.is_cpu()) return tensor;
  return tensor.pin_memory().to(device, /*non_blocking=*/true);
}

}  // namespace

Selection select_conversations(const TokenShards& shards, const CausalLM& model,
                               int64_t max_length) {
  check_vocabulary(shards, model);
  Selection selection;
  for (int64_t i = 0; i < shards.size(); ++i) {
    const auto mask = shards.conversation(i).loss_mask;
    const auto length = std::min(static_cast<int64_t>(mask.size()), max_length);
    // The first token is nobody's prediction.
    if (std::any_of(mask.begin() + std::min<int64_t>(1, length), mask.begin() + length,
                    [](uint8_t trained) { return trained != 0; })) {
      selection.conversations.push_back(i);
      selection.lengths.push_back(length);
    }
  }
  selection.skipped = shards.size() - static_cast<int64_t>(selection.conversations.size());
  if (selection.conversations.empty()) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("none of the {} conversations has a training target in its first {} "
                            "tokens",
                            shards.size(), max_length),
                "raise --max-length, or prepare data whose answers begin earlier");
  }
  return selection;
}

TokenCounts count_tokens(const TrainBatch& batch) {
  const auto tokens =
      batch.attention_mask.defined() ? batch.attention_mask : at::ones_like(batch.input_ids);
  const auto trained = batch.loss_mask.defined() ? tokens * batch.loss_mask : tokens;
  return {tokens.sum(at::kLong).item<int64_t>(), trained.sum(at::kLong).item<int64_t>()};
}

std::vector<at::Tensor*> tensors_of(TrainBatch& batch) {
  std::vector<at::Tensor*> tensors = {&batch.input_ids, &batch.attention_mask, &batch.position_ids,
                                      &batch.loss_mask, &batch.labels,         &batch.document_ids};
  if (batch.documents) {
    tensors.insert(tensors.end(), {&batch.documents->starts, &batch.documents->offsets});
  }
  for (auto& [name, tensor] : batch.extras) tensors.push_back(&tensor);
  return tensors;
}

ForwardInput forward_input(TrainBatch batch, at::Device device) {
  if (!device.is_cpu()) batch.most_targets = most_targets(batch);
  for (auto* tensor : tensors_of(batch)) *tensor = to_device(*tensor, device);
  return {.batch = std::move(batch), .right_padded = true};
}

DraftTrainingScope::DraftTrainingScope(const CausalLM& model, bool is_training) : model_(model) {
  for (const auto& attached : model.speculative_state()) {
    was_training_.push_back(attached.draft->is_training());
    attached.draft->train(is_training);
  }
}

DraftTrainingScope::~DraftTrainingScope() {
  for (size_t i = 0; i < was_training_.size(); ++i) {
    model_.speculative_state()[i].draft->train(was_training_[i]);
  }
}

std::vector<std::string> mode_names(const CausalLM& model) {
  std::vector<std::string> names;
  for (const auto& attached : model.speculative_state()) names.push_back(attached.state.mode);
  return names;
}

void require_drafts(const CausalLM& model) {
  if (!model.speculative_state().empty()) return;
  throw Error(ErrorCode::kNotConverted, "the model has no draft attached",
              "attach one first: outrider convert MODEL --mode eagle --out DIR");
}

}  // namespace outrider
