#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <cmath>
#include <set>

#include "check/check.h"
#include "check/mode_runs.h"
#include "check/process_state.h"
#include "outrider/text.h"
#include "trainer/optimizer.h"

namespace outrider::check {
namespace {

constexpr double kTolerance = 1e-4;  // float32 sums in another order

// Leaves of the graph that get gradients but belong to nobody: they would never be saved.
size_t unregistered_leaves(const CausalLM& model, const at::Tensor& loss) {
  std::set<const at::TensorImpl*> known;
  for (const auto& parameter : model.parameters()) known.insert(parameter.unsafeGetTensorImpl());
  std::set<const torch::autograd::Node*> seen;
  std::vector<std::shared_ptr<torch::autograd::Node>> open = {loss.grad_fn()};
  size_t unregistered = 0;
  while (!open.empty()) {
    const auto node = open.back();
    open.pop_back();
    if (!node || !seen.insert(node.get()).second) continue;
    if (const auto* leaf = dynamic_cast<const torch::autograd::AccumulateGrad*>(node.get())) {
      unregistered += !known.contains(leaf->variable.unsafeGetTensorImpl());
    }
    for (const auto& edge : node->next_edges()) open.push_back(edge.function);
  }
  return unregistered;
}

std::string check_gradients(const ModeSubject& subject) {
  const auto model = converted(subject);
  model->train();
  const auto before = ProcessState::now();
  const auto output = model->forward(some_batch(*model));
  std::vector<std::string> wrong;
  if (const auto count = unregistered_leaves(*model, output.loss); count > 0) {
    wrong.push_back(
        fmt::format("{} trained tensors are no registered parameters: they would be "
                    "neither updated nor saved",
                    count));
  }
  output.loss.backward();
  for (auto& problem : not_finite(output)) wrong.push_back(std::move(problem));
  size_t with_gradient = 0;
  const auto parameters = trained_parameters(*model);
  for (const auto& [name, tensor, is_rounded] : parameters) {
    if (!tensor.grad().defined()) continue;
    if (!at::isfinite(tensor.grad()).all().item<bool>()) {
      wrong.push_back("the gradient of " + name + " is not finite");
    }
    with_gradient += tensor.grad().ne(0).any().item<bool>();
  }
  if (with_gradient == 0) wrong.push_back("no parameter gets a gradient");
  auto changes = ProcessState::now().changes_since(before);
  std::erase(changes, "the random generator");  // a loss may draw
  if (!changes.empty()) wrong.push_back("the loss changes " + join(changes, ", "));
  if (!wrong.empty()) throw Failure(join(wrong, "; "));
  return fmt::format("{} of {} trained parameters get gradients", with_gradient, parameters.size());
}

// What the steps report, or the total of a draft that reports none.
double reported_loss(const ForwardOutput& output) {
  const auto& draft = output.draft_losses.back();
  double sum = 0;
  for (const auto& step : draft.steps) sum += step.loss.item<double>();
  return draft.steps.empty() ? draft.total.item<double>() : sum;
}

std::string check_learning(const ModeSubject& subject) {
  const auto model = converted(subject);
  model->train();
  double first = 0, last = 0;
  learn(*model, some_batch(*model), 30, [&](int step, const ForwardOutput& output) {
    (step == 0 ? first : last) = reported_loss(output);
  });
  const auto text = fmt::format("loss {:.4g} → {:.4g} in 30 steps on one batch", first, last);
  if (!(last < first)) throw Failure(text);
  return text;
}

at::Tensor mask_until(const at::Tensor& ids, int64_t last) {
  auto mask = at::zeros_like(ids);
  mask.slice(1, 0, last + 1).fill_(1);
  return mask;
}

// Losses of targets up to `last` must not know what follows it.
void check_future(CausalLM& model, const ForwardInput& input, int64_t last) {
  auto seen = input, other = input;
  seen.batch.loss_mask = other.batch.loss_mask = mask_until(input.batch.input_ids, last);
  const auto length = input.batch.input_ids.size(1);
  other.batch.input_ids = input.batch.input_ids.clone();
  other.batch.input_ids.slice(1, last + 1)
      .copy_(some_tokens(input.batch.input_ids.size(0), length - last - 1,
                         model.config().vocab_size, static_cast<uint64_t>(77 + last)));
  require_close(seeded_forward(model, other), seeded_forward(model, seen), kTolerance,
                fmt::format("targets up to {} feel other tokens after it", last));
}

// The base's pass as offline training stores it.
StoredBaseOutputs stored_pass(CausalLM& model, const at::Tensor& ids) {
  auto request = model.hidden_states_needed();
  request.input_embeddings = true;
  const auto places = at::arange(ids.size(1), ids.options()).expand_as(ids);
  const auto pass = model.run_base({.input_ids = ids, .position_ids = places, .request = request});
  StoredBaseOutputs stored;
  stored.is_prenorm = request.last_hidden_prenorm;
  stored.last_hidden = stored.is_prenorm ? pass.last_hidden_prenorm : pass.last_hidden;
  stored.input_embeddings = pass.input_embeddings;
  std::vector<at::Tensor> layers;
  for (const auto& [layer, output] : pass.layer_outputs) layers.push_back(output);
  if (!layers.empty()) stored.layer_outputs = at::cat(layers, -1);
  return stored;
}

void disturb_from(at::Tensor& states, int64_t position) {
  if (!states.defined()) return;
  states = states.clone();
  states.slice(1, position).mul_(-0.7).add_(0.3);
}

// To predict the token at a position, nothing may be read of the base's pass there or later, its
// own embedding included: drafting does not know it yet.
void check_target_is_unseen(CausalLM& model, const ForwardInput& input, int64_t position) {
  auto seen = input, other = input;
  seen.batch.loss_mask = at::zeros_like(input.batch.input_ids);
  seen.batch.loss_mask.select(1, position).fill_(1);
  other.batch.loss_mask = seen.batch.loss_mask;
  seen.base_outputs = stored_pass(model, input.batch.input_ids);
  other.base_outputs = seen.base_outputs;
  for (auto* states : {&other.base_outputs->last_hidden, &other.base_outputs->layer_outputs,
                       &other.base_outputs->input_embeddings}) {
    disturb_from(*states, position);
  }
  require_close(
      seeded_forward(model, other), seeded_forward(model, seen), kTolerance,
      fmt::format("the prediction of token {} reads that token or a later one", position));
}

void check_neighbour(CausalLM& model, const ForwardInput& input) {
  auto seen = input, other = input;
  seen.batch.loss_mask = at::ones_like(input.batch.input_ids);
  seen.batch.loss_mask[1].zero_();
  other.batch.loss_mask = seen.batch.loss_mask;
  other.batch.input_ids = input.batch.input_ids.clone();
  other.batch.input_ids[1].copy_(
      some_tokens(1, input.batch.input_ids.size(1), model.config().vocab_size, 78)[0]);
  require_close(seeded_forward(model, other), seeded_forward(model, seen), kTolerance,
                "one sequence feels the tokens of another");
}

std::string check_causality(const ModeSubject& subject) {
  const auto model = converted(subject);
  const at::NoGradGuard no_grad;
  const auto batch = some_batch(*model);
  for (const int64_t last : {5, 11, 17, 22}) {
    check_future(*model, batch, last);
    check_target_is_unseen(*model, batch, last);
  }
  check_neighbour(*model, batch);
  return "losses at four cuts know nothing of their own or later tokens, nor of other sequences";
}

std::string check_padding(const ModeSubject& subject) {
  const auto model = converted(subject);
  const at::NoGradGuard no_grad;
  const auto plain = some_batch(*model);
  auto padded = plain;
  const auto rows = plain.batch.input_ids.size(0);
  const auto zeros = at::zeros({rows, 7}, plain.batch.input_ids.options());
  padded.batch.input_ids =
      at::cat({plain.batch.input_ids, some_tokens(rows, 7, model->config().vocab_size, 79)}, 1);
  padded.batch.attention_mask = at::cat({plain.batch.attention_mask, zeros}, 1);
  padded.batch.loss_mask = at::cat({plain.batch.loss_mask, zeros + 1}, 1);
  require_close(seeded_forward(*model, padded), seeded_forward(*model, plain), kTolerance,
                "padding on the right changes the loss");
  return "padding on the right does not change the loss";
}

std::string check_bfloat16(const ModeSubject& subject) {
  const auto model = converted(subject, at::kBFloat16);
  model->train();
  std::vector<std::string> wrong;
  for (const auto& [name, tensor, is_rounded] : trained_parameters(*model)) {
    if (tensor.scalar_type() == at::kFloat) wrong.push_back(name + " is float32");
  }
  if (!wrong.empty()) throw Failure("with a bfloat16 base: " + join(wrong, "; "));
  const auto output = model->forward(some_batch(*model));
  output.loss.backward();
  wrong = not_finite(output);
  if (!wrong.empty()) throw Failure("with a bfloat16 base: " + join(wrong, "; "));
  return fmt::format("loss {:.4g}", output.loss.item<double>());
}

std::string check_cuda(const ModeSubject& subject) {
  if (!at::hasCUDA()) throw Skip("no CUDA device");
  const auto on_cpu = converted(subject), on_device = converted(subject, at::kFloat, at::kCUDA);
  {
    const at::NoGradGuard no_grad;
    const auto source = copied_tensors(*on_cpu);
    for (auto& item : on_device->named_parameters()) item.value().copy_(source.at(item.key()));
  }
  const auto expected = on_cpu->forward(some_batch(*on_cpu));
  const auto actual = on_device->forward(some_batch(*on_device));
  require_close(actual, expected, 1e-3, "on the CUDA device");
  expected.loss.backward();
  actual.loss.backward();
  const auto gradients = on_device->named_parameters();
  for (const auto& [name, tensor, is_rounded] : trained_parameters(*on_cpu)) {
    if (!tensor.grad().defined()) continue;
    const double difference = relative_difference(gradients[name].grad(), tensor.grad());
    if (difference > 1e-3) {
      throw Failure(
          fmt::format("on the CUDA device the gradient of {} is {:.2g} off", name, difference));
    }
  }
  return "losses and gradients equal the CPU's within 1e-3";
}

constexpr ModeCheck kTrainingChecks[] = {
    {"gradients", "losses and gradients are finite, and something is trained", check_gradients},
    {"learning", "thirty steps on one batch lower the loss", check_learning},
    {"causality", "no prediction reads its own token, a later one or another sequence",
     check_causality},
    {"padding", "no loss depends on padding on the right", check_padding},
    {"bfloat16", "a bfloat16 base gets a bfloat16 draft with a finite loss", check_bfloat16},
    {"cuda", "losses and gradients on a CUDA device are the CPU's", check_cuda}};

}  // namespace

std::span<const ModeCheck> training_checks() { return kTrainingChecks; }

}  // namespace outrider::check
