#include "model_tensors.h"

#include <algorithm>

namespace outrider {

bool belongs_to_a_draft(const CausalLM& model, const std::string& name) {
  return std::ranges::any_of(model.speculative_state(), [&](const AttachedDraft& attached) {
    return name.starts_with(attached.attribute + ".");
  });
}

TensorMap tensors_of(const torch::nn::Module& module) {
  TensorMap tensors;
  for (const auto& item : module.named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) tensors[item.key()] = item.value();
  return tensors;
}

TensorMap checkpoint_tensors(const CausalLM& model) { return tensors_of(model); }

TensorMap draft_tensors(const CausalLM& model) {
  auto tensors = checkpoint_tensors(model);
  std::erase_if(tensors, [&](const auto& item) { return !belongs_to_a_draft(model, item.first); });
  return tensors;
}

TensorMap model_tensors(const CausalLM& model, bool drafts_only) {
  return drafts_only ? draft_tensors(model) : checkpoint_tensors(model);
}

}  // namespace outrider
