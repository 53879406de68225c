#include <fmt/format.h>

#include <algorithm>

#include "check/check.h"
#include "check/mode_runs.h"
#include "check/operator_call.h"
#include "outrider/sdk/gradient_check.h"
#include "outrider/text.h"

namespace outrider::check {
namespace {

bool is_constant(const OperatorSpec& spec, size_t place) {
  return std::ranges::find(spec.constants, place) != spec.constants.end();
}

bool is_float_tensor(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().is_floating_point();
}

// Of one set of inputs, those that get a gradient.
std::vector<size_t> variable_places(const OperatorSpec& spec, const OperatorInputs& inputs) {
  std::vector<size_t> places;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (is_float_tensor(inputs[i]) && !is_constant(spec, i)) places.push_back(i);
  }
  return places;
}

/// All differentiable outputs as one vector.
at::Tensor flat_outputs(const std::string& name, const OperatorInputs& inputs) {
  std::vector<at::Tensor> parts;
  for (const auto& output : outputs_of(name, inputs)) {
    if (output.is_floating_point()) parts.push_back(output.flatten());
  }
  return at::cat(parts);
}

bool is_differentiable(const OperatorSpec& spec, const OperatorInputs& inputs) {
  for (const auto& output : outputs_of(spec.name, moved(inputs, at::kCPU))) {
    if (output.requires_grad()) return true;
  }
  return false;
}

std::string check_gradient(const OperatorSpec& spec) {
  size_t sets = 0;
  for (const auto& inputs : spec.sample_inputs(at::kDouble)) {
    if (!is_differentiable(spec, inputs)) return "has no gradient";
    const auto places = variable_places(spec, inputs);
    std::vector<at::Tensor> values;
    for (const auto place : places) values.push_back(inputs[place].toTensor().contiguous());
    const auto call = [&](const std::vector<at::Tensor>& given) {
      auto all = inputs;
      for (size_t i = 0; i < places.size(); ++i) all[places[i]] = given[i];
      return flat_outputs(spec.name, all);
    };
    const auto wrong = gradient_mismatches(call, values, 1e-6, 20);
    if (!wrong.empty()) {
      throw Failure(fmt::format(
          "with sample {}, the gradient of argument {} at element {} is {:.8g}, by differences "
          "{:.8g} (and {} more)",
          sets, places[wrong.front().input], wrong.front().element, wrong.front().autograd,
          wrong.front().difference, wrong.size() - 1));
    }
    ++sets;
  }
  return fmt::format("gradients of {} samples equal differences", sets);
}

void require_near(const std::string& name, const std::vector<at::Tensor>& actual,
                  const std::vector<at::Tensor>& expected, double limit, const std::string& where) {
  if (actual.size() != expected.size()) throw Failure(where + ": another number of results");
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = relative_difference(actual[i], expected[i]);
    if (difference > limit) {
      throw Failure(fmt::format("{}: result {} of {} is {:.2g} off (accepted {:.2g})", where, i,
                                name, difference, limit));
    }
  }
}

// The float32 result for inputs that bfloat16 can hold is the yardstick.
std::string check_low_precision(const OperatorSpec& spec) {
  for (const auto& inputs : spec.sample_inputs(at::kBFloat16)) {
    auto wide = inputs;
    for (size_t place = 0; place < inputs.size(); ++place) {
      if (!is_float_tensor(inputs[place])) continue;
      if (inputs[place].toTensor().scalar_type() != at::kBFloat16) continue;
      wide[place] = inputs[place].toTensor().to(at::kFloat);
    }
    require_near(spec.name, outputs_and_gradients(spec.name, moved(inputs, at::kCPU)),
                 outputs_and_gradients(spec.name, moved(wide, at::kCPU)),
                 spec.low_precision_tolerance, "in bfloat16 against float32");
  }
  return "bfloat16 is near float32";
}

std::string check_device(const OperatorSpec& spec) {
  if (!at::hasCUDA()) return "not compared with CUDA: no device";
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const double limit = type == at::kFloat ? spec.rtol + spec.atol : spec.low_precision_tolerance;
    for (const auto& inputs : spec.sample_inputs(type)) {
      require_near(spec.name, outputs_and_gradients(spec.name, moved(inputs, at::kCUDA)),
                   outputs_and_gradients(spec.name, moved(inputs, at::kCPU)), limit,
                   fmt::format("CUDA against the CPU in {}", c10::toString(type)));
    }
  }
  return "CUDA equals the CPU";
}

void require_own_namespace(const OperatorSpec& spec, const std::string& plugin) {
  if (spec.name.substr(0, spec.name.find("::")).find(plugin) != std::string::npos) return;
  throw Failure(fmt::format("its namespace does not contain the plugin's name, {}", plugin));
}

CheckResult check_operator(const CheckDescription& check, const OperatorSpec& spec,
                           const std::string& plugin) {
  CheckResult result{check.name, "operator " + spec.name, CheckStatus::kPassed, {}};
  try {
    if (!is_core_operator(spec)) require_own_namespace(spec, plugin);
    at::manual_seed(51);
    result.detail =
        join({check_gradient(spec), check_low_precision(spec), check_device(spec)}, "; ");
  } catch (const std::exception& e) {
    result.status = CheckStatus::kFailed;
    result.detail = text_of(e);
  }
  return result;
}

}  // namespace

const CheckDescription kOperatorCheck = {
    "operators", "gradients against differences, bfloat16 against float32, CUDA against the CPU"};

const CheckDescription kCoreOperatorCheck = {
    "core_operators", "the same of the operators that Outrider brings, as this machine runs them"};

std::vector<CheckResult> check_core_operators() {
  std::vector<CheckResult> results;
  for (const auto& spec : operator_specs()) {
    if (is_core_operator(spec)) results.push_back(check_operator(kCoreOperatorCheck, spec, {}));
  }
  return results;
}

std::vector<CheckResult> check_operators(const std::string& plugin) {
  std::vector<CheckResult> results;
  for (const auto& spec : operator_specs()) {
    if (!is_core_operator(spec)) results.push_back(check_operator(kOperatorCheck, spec, plugin));
  }
  if (results.empty()) {
    results.push_back({kOperatorCheck.name, "plugin " + plugin, CheckStatus::kSkipped,
                       "the plugin gives no operator with sample inputs (add_operator_spec)"});
  }
  return results;
}

}  // namespace outrider::check
