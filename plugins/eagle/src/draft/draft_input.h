#pragma once

#include <torch/nn/module.h>

#include <memory>

#include "config/draft_settings.h"
#include "outrider/model/base_outputs.h"

namespace outrider::eagle {

/// What the decoder reads of the base and of the tokens: one class per variant of EAGLE.
class DraftInput {
 public:
  virtual ~DraftInput() = default;

  virtual HiddenStateRequest hidden_states_needed() const = 0;
  /// The state that the first step starts from, [B,S,h]. Later ones start from the decoder's
  /// output.
  virtual at::Tensor start(const BaseOutputs& base) const = 0;
  /// The decoder's input [B,n,h] from a step's state and the embeddings of the tokens after it.
  virtual at::Tensor combine(const at::Tensor& hidden, const at::Tensor& embeddings) const = 0;
};

/// The variant that the settings describe; its parameters become the owner's.
std::unique_ptr<DraftInput> make_draft_input(torch::nn::Module& owner,
                                             const DraftSettings& settings,
                                             at::TensorOptions options);

}  // namespace outrider::eagle
