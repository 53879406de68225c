#include "trainer/training_step.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>
#include <set>
#include <tuple>
#include <utility>

#include "checkpoint/model_tensors.h"
#include "data/batches.h"
#include "outrider/error.h"

namespace outrider {
namespace {

// What processes sum is float32.
AdamWOptions with_sums(AdamWOptions options, const GradientReduction& reduction) {
  options.widens_gradients = reduction.ready || reduction.finish;
  return options;
}

/// Called when a backward pass has added up a parameter's gradient.
class WhenComplete : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit WhenComplete(std::function<void()> act) : act_(std::move(act)) {}
  void operator()(const at::Tensor&) override { act_(); }

 private:
  std::function<void()> act_;
};

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

bool trains_base(const CausalLM& model) {
  return std::ranges::any_of(trainable_parameters(model), [&](const auto& parameter) {
    return !belongs_to_a_draft(model, parameter.name);
  });
}

TrainingStep::TrainingStep(CausalLM& model, const AdamWOptions& options,
                           GradientReduction reduction, Recomputation recompute)
    : model_(model),
      parameters_(trainable_parameters(model)),
      trains_base_(outrider::trains_base(model)),
      optimizer_(parameters_, with_sums(options, reduction)),
      reduction_(std::move(reduction)),
      recompute_(std::move(recompute)) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    torch::autograd::impl::set_post_acc_grad_hooks(
        parameters_[i].tensor, std::make_unique<WhenComplete>([this, i] { collect(i); }));
  }
}

TrainingStep::~TrainingStep() {
  for (const auto& parameter : parameters_) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter.tensor, nullptr);
  }
}

// As the backward pass goes on: so no two sets of gradients exist, and each can travel at once.
void TrainingStep::collect(size_t index) {
  if (taken_) {
    auto& place = (*taken_)[index];
    auto gradient = optimizer_.take_gradient(index);
    place = place.defined() ? place.copy_(gradient) : gradient;
    return;
  }
  optimizer_.collect_gradient(index);
  if (is_last_ && reduction_.ready) reduction_.ready(index, optimizer_.gradient(index));
}

ForwardOutput TrainingStep::learn(ForwardInput input, double share, bool is_last) {
  is_last_ = is_last;
  auto [output, loss] = forward_and_backward(std::move(input), share);
  loss_ = loss_.defined() ? loss_ + loss : loss;
  return output;
}

std::pair<ForwardOutput, at::Tensor> TrainingStep::forward_and_backward(ForwardInput input,
                                                                        double share) {
  input.want_lm_loss = trains_base_;
  input.batch.recompute = recompute_.level;
  if (recompute_.most_kept) input.batch.most_kept = recompute_.most_kept(input.batch);
  auto output = model_.forward(input);
  const auto loss = output.loss * share;
  loss.backward();
  return {std::move(output), loss.detach()};
}

TrainingStep::Pass TrainingStep::pass(ForwardInput input, double share,
                                      const std::vector<at::Tensor>& places) {
  Pass pass{{}, {}, places};
  pass.gradients.resize(parameters_.size());
  taken_ = &pass.gradients;
  std::tie(pass.output, pass.loss) = forward_and_backward(std::move(input), share);
  taken_ = nullptr;
  return pass;
}

void TrainingStep::add(const Pass& pass, bool keeps) {
  loss_ = loss_.defined() ? loss_ + pass.loss : pass.loss.clone();
  for (size_t i = 0; i < pass.gradients.size(); ++i) {
    const auto& gradient = pass.gradients[i];
    const bool copies = keeps && gradient.defined() && !optimizer_.gradient(i).defined();
    optimizer_.add_gradient(i, copies ? gradient.clone() : gradient);
  }
}

void TrainingStep::forget() {
  taken_ = nullptr;
  for (const auto& parameter : parameters_) {
    at::Tensor(parameter.tensor).mutable_grad().reset();
  }
}

TrainingStep::Result TrainingStep::update(double learning_rate) {
  if (reduction_.finish) reduction_.finish(optimizer_.gradients());
  auto norm = optimizer_.step(learning_rate);
  return {std::exchange(loss_, at::Tensor()), std::move(norm)};
}

}  // namespace outrider
