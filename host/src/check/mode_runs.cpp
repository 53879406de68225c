#include "check/mode_runs.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "outrider/host/checkpoint.h"
#include "outrider/host/convert.h"
#include "outrider/text.h"

namespace outrider::check {

std::string text_of(const std::exception& error) {
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  return torch == nullptr ? error.what() : torch->what_without_backtrace();
}

std::string listed(std::vector<std::string> names) {
  constexpr size_t kShown = 10;
  const auto more = names.size() > kShown ? names.size() - kShown : 0;
  names.resize(names.size() - more);
  return join(names, ", ") + (more > 0 ? fmt::format(" and {} more", more) : "");
}

void require_same_process(const ProcessState& before, const std::string& when) {
  const auto changes = ProcessState::now().changes_since(before);
  if (!changes.empty()) throw Failure(when + " changes " + join(changes, ", "));
}

std::vector<std::string> not_finite(const ForwardOutput& output) {
  std::vector<std::string> wrong;
  for (const auto& [name, number] : reported(output)) {
    if (!std::isfinite(number)) wrong.push_back(fmt::format("{} is {}", name, number));
  }
  return wrong;
}

void convert(const ModeSubject& subject, CausalLM& model, uint64_t seed) {
  ConvertOptions options;
  options.seed = seed;
  speculative::convert(model, {{{subject.mode.name(), subject.config}}}, options);
}

std::shared_ptr<CausalLM> converted(const ModeSubject& subject, at::ScalarType dtype,
                                    at::Device device) {
  auto model = subject.base.model(dtype, device);
  convert(subject, *model);
  return model;
}

TensorMap copied_tensors(const CausalLM& model) {
  auto tensors = checkpoint_tensors(model);
  for (auto& [name, tensor] : tensors) tensor = tensor.detach().clone();
  return tensors;
}

bool is_draft_tensor(const CausalLM& model, const std::string& name) {
  return name.starts_with(model.speculative_state().back().attribute + ".");
}

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return std::numeric_limits<double>::infinity();
  if (a.numel() == 0) return 0;
  const auto actual = a.detach().to(at::kCPU, at::kDouble);
  const auto expected = b.detach().to(at::kCPU, at::kDouble);
  const double scale = std::max(expected.abs().max().item<double>(), 1e-30);
  const double difference = (actual - expected).abs().max().item<double>() / scale;
  return std::isfinite(difference) ? difference : std::numeric_limits<double>::infinity();
}

void require_equal(const TensorMap& actual, const TensorMap& expected, const std::string& when) {
  std::vector<std::string> wrong;
  for (const auto& [name, tensor] : expected) {
    const auto found = actual.find(name);
    if (found == actual.end()) {
      wrong.push_back(name + " is missing");
    } else if (found->second.sizes() != tensor.sizes() ||
               found->second.scalar_type() != tensor.scalar_type() ||
               !at::equal(found->second, tensor)) {
      wrong.push_back(name + " differs");
    }
  }
  for (const auto& [name, tensor] : actual) {
    if (!expected.contains(name)) wrong.push_back(name + " is new");
  }
  if (!wrong.empty()) throw Failure(when + ": " + listed(wrong));
}

ForwardInput some_batch(const CausalLM& model) {
  ForwardInput input;
  input.batch.input_ids = some_tokens(2, 24, model.config().vocab_size, 31).to(model.device());
  input.batch.attention_mask = at::ones_like(input.batch.input_ids);
  input.batch.loss_mask = at::ones_like(input.batch.input_ids);
  return input;
}

ForwardOutput seeded_forward(CausalLM& model, const ForwardInput& input) {
  at::manual_seed(5);
  return model.forward(input);
}

std::vector<std::pair<std::string, double>> reported(const ForwardOutput& output) {
  std::vector<std::pair<std::string, double>> numbers;
  for (const auto& draft : output.draft_losses) {
    numbers.emplace_back("total", draft.total.item<double>());
    for (const auto& step : draft.steps) {
      numbers.emplace_back(step.name + " loss", step.loss.item<double>());
      numbers.emplace_back(step.name + " accuracy", step.accuracy.item<double>());
    }
  }
  return numbers;
}

void require_close(const ForwardOutput& actual, const ForwardOutput& expected, double tolerance,
                   const std::string& when) {
  const auto found = reported(actual), wanted = reported(expected);
  if (found.size() != wanted.size()) throw Failure(when + ": another number of steps is reported");
  std::vector<std::string> wrong;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto& [name, value] = wanted[i];
    const double scale = std::max(1.0, std::abs(value));
    // Not "greater than": NaN is wrong too.
    if (!(std::abs(found[i].second - value) <= tolerance * scale)) {
      wrong.push_back(fmt::format("{} is {:.7g} instead of {:.7g}", name, found[i].second, value));
    }
  }
  if (!wrong.empty()) throw Failure(when + ": " + join(wrong, ", "));
}

std::vector<AdamW::Parameter> trained_parameters(const CausalLM& model) {
  std::vector<AdamW::Parameter> parameters;
  for (const auto& item : model.named_parameters()) {
    if (item.value().requires_grad()) parameters.push_back({item.key(), item.value()});
  }
  return parameters;
}

void learn(CausalLM& model, const ForwardInput& batch, int steps,
           const std::function<void(int, const ForwardOutput&)>& on_step) {
  AdamW optimizer(trained_parameters(model), {});
  for (int step = 0; step < steps; ++step) {
    const auto output = model.forward(batch);
    output.loss.backward();
    optimizer.collect_gradients();
    optimizer.step(3e-3);
    if (on_step) on_step(step, output);
  }
}

}  // namespace outrider::check
