#pragma once

#include <string>

#include "outrider/host/checkpoint.h"

namespace outrider {

/// Whether a tensor, by its checkpoint name, is an attached draft's and not the base's.
bool belongs_to_a_draft(const CausalLM& model, const std::string& name);

/// Every parameter and buffer of the attached drafts, under checkpoint names.
TensorMap draft_tensors(const CausalLM& model);

/// Every parameter and buffer of a module, under its own names.
TensorMap tensors_of(const torch::nn::Module& module);

/// All of them or the drafts' alone.
TensorMap model_tensors(const CausalLM& model, bool drafts_only);

}  // namespace outrider
