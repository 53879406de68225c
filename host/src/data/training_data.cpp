#include "outrider/host/training_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "data/base_check.h"
#include "data/batches.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

std::vector<int64_t> ascending(const std::vector<int64_t>& layers) {
  const std::set<int64_t> distinct(layers.begin(), layers.end());
  return {distinct.begin(), distinct.end()};
}

std::optional<HiddenStateShards> open_hidden_states(const std::filesystem::path& folder,
                                                    const TokenShards& tokens,
                                                    const CausalLM& model) {
  if (HiddenStateShards::exist_in(folder)) {
    if (!model.has_edit(BaseEdit::kFreezeParameters)) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: stored hidden states cannot train the base itself",
                              printable(folder.string(), 400)),
                  "give token shards without hidden states, or convert with a frozen base");
    }
    auto shards = HiddenStateShards::open(folder, tokens);
    shards.check_fits(model);
    return shards;
  }
  if (!model.has_edit(BaseEdit::kDropDecoderLayers)) return std::nullopt;
  throw Error(ErrorCode::kInvalidData,
              fmt::format("{}: no hidden states, and the model has no decoder layers to make them",
                          printable(folder.string(), 400)),
              "make them: outrider data hidden-states BASE --for MODEL --data SHARDS --out DIR");
}

}  // namespace

TrainingData::TrainingData(const std::filesystem::path& folder, const CausalLM& model,
                           TokenShards::Part part)
    : tokens_(TokenShards::open(folder, part)),
      hidden_states_(open_hidden_states(folder, tokens_, model)),
      layers_(ascending(model.hidden_states_needed().layer_outputs)),
      device_(model.device()) {}

TrainingInput TrainingData::padded_batch(const std::vector<int64_t>& conversations,
                                         int64_t max_length, int64_t width) const {
  if (!device_.is_cpu()) width = few_widths(conversations, max_length, width);
  const auto batch = tokens_.batch(conversations, max_length, width);
  TrainingInput input{forward_input(batch, device_), count_tokens(batch)};
  if (hidden_states_) {
    input.forward.base_outputs = hidden_states_->batch(conversations, max_length, layers_, width);
  }
  return input;
}

int64_t TrainingData::width(const std::vector<ConversationRow>& rows, int64_t max_length) const {
  int64_t widest = 0;
  for (const auto& row : rows) {
    widest = std::max(widest, row.size() > 1 ? max_length : tokens_.width(row, max_length));
  }
  return widest;
}

TrainingInput TrainingData::batch(const std::vector<ConversationRow>& rows, int64_t max_length,
                                  int64_t width) const {
  const bool is_packed = std::ranges::any_of(rows, [](const auto& row) { return row.size() > 1; });
  if (!is_packed) {
    std::vector<int64_t> conversations;
    for (const auto& row : rows) conversations.push_back(row.front());
    return padded_batch(conversations, max_length, width);
  }
  const auto batch = tokens_.packed_batch(rows, max_length, max_length);
  return {forward_input(batch, device_), count_tokens(batch)};
}

// A multiple of kWidthStep. Kernels for a GPU are planned, and its memory is divided, by width.
int64_t TrainingData::few_widths(const std::vector<int64_t>& conversations, int64_t max_length,
                                 int64_t width) const {
  constexpr int64_t kWidthStep = 64;
  width = std::max(width, tokens_.width(conversations, max_length));
  const int64_t rounded = (width + kWidthStep - 1) / kWidthStep * kWidthStep;
  return std::max(width, std::min(rounded, max_length));
}

std::optional<Error> TrainingData::base_fault(CausalLM& model,
                                              const std::vector<int64_t>& conversations,
                                              int64_t max_length) const {
  for (const int64_t conversation : conversations) {
    if (hidden_states_) {
      if (auto error = hidden_states_->fault(conversation, max_length, layers_)) return error;
    } else if (const auto fault = first_base_fault(model, tokens_, conversation, max_length)) {
      return base_fault_error(model, *fault);
    }
  }
  return std::nullopt;
}

}  // namespace outrider
