#include "trainer/training_step.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>
#include <utility>

#include "data/batches.h"
#include "outrider/error.h"

namespace outrider {
namespace {

bool includes_base(const std::vector<AdamW::Parameter>& parameters, const CausalLM& model) {
  return std::ranges::any_of(parameters, [&](const auto& parameter) {
    return std::ranges::none_of(model.speculative_state(), [&](const auto& draft) {
      return parameter.name.starts_with(draft.attribute + ".");
    });
  });
}

}  // namespace

std::vector<AdamW::Parameter> trainable_parameters(const CausalLM& model) {
  require_drafts(model);
  std::vector<AdamW::Parameter> parameters;
  std::set<const void*> seen;  // tied parameters have several names
  for (const auto& item : model.named_parameters()) {
    const auto& tensor = item.value();
    if (tensor.requires_grad() && seen.insert(tensor.unsafeGetTensorImpl()).second) {
      const auto& types = model.stored_types();
      parameters.push_back({item.key(), tensor, types && types->tensors.contains(item.key())});
    }
  }
  if (!parameters.empty()) return parameters;
  throw Error(ErrorCode::kNotConverted, "there is nothing to train: every parameter is frozen",
              "convert the base model again");
}

TrainingStep::TrainingStep(CausalLM& model, const AdamWOptions& options, Reduce reduce)
    : model_(model),
      parameters_(trainable_parameters(model)),
      trains_base_(includes_base(parameters_, model)),
      optimizer_(parameters_, options),
      reduce_(std::move(reduce)) {}

ForwardOutput TrainingStep::learn(ForwardInput input, double share) {
  input.want_lm_loss = trains_base_;
  auto output = model_.forward(input);
  const auto loss = output.loss * share;
  loss.backward();
  optimizer_.collect_gradients();
  loss_ = loss_.defined() ? loss_ + loss.detach() : loss.detach();
  return output;
}

TrainingStep::Result TrainingStep::update(double learning_rate) {
  if (reduce_) reduce_(optimizer_.gradients());
  auto norm = optimizer_.step(learning_rate);
  return {std::exchange(loss_, at::Tensor()), std::move(norm)};
}

}  // namespace outrider
