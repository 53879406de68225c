#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include "device.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/ops/operator_library.h"

namespace outrider::testing {
namespace {

void load_plugins() {
  for (const char* name : {"eagle", "medusa"}) plugin_loader().load({.name = name});
}

bool is_differentiable(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().is_floating_point();
}

// Copies on a device; tensors of floating point want gradients.
OperatorInputs moved(const OperatorInputs& inputs, at::Device device) {
  OperatorInputs result;
  for (const auto& value : inputs) {
    if (!value.isTensor()) {
      result.push_back(value);
      continue;
    }
    auto tensor = value.toTensor().detach().to(device, /*non_blocking=*/false, /*copy=*/true);
    if (tensor.is_floating_point()) tensor.requires_grad_();
    result.emplace_back(tensor);
  }
  return result;
}

// The operator's outputs, then the gradients of its inputs for one fixed direction.
std::vector<at::Tensor> call(const std::string& name, const OperatorInputs& inputs) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
  std::vector<c10::IValue> stack = inputs;
  op.callBoxed(stack);
  std::vector<at::Tensor> results, wanted, roots, directions;
  for (const auto& value : stack) {
    if (!value.isTensor()) continue;
    const auto& output = value.toTensor();
    results.push_back(output.detach());
    if (!output.requires_grad()) continue;
    roots.push_back(output);
    const auto place = at::arange(output.numel(), at::kFloat).reshape(output.sizes());
    directions.push_back(at::sin(place).to(output.options()));
  }
  for (const auto& value : inputs) {
    if (is_differentiable(value)) wanted.push_back(value.toTensor());
  }
  if (roots.empty()) return results;
  for (const auto& grad : torch::autograd::grad(roots, wanted, directions, {}, false, true)) {
    if (grad.defined()) results.push_back(grad);
  }
  return results;
}

void check_operator(const std::string& name, const OperatorInputs& inputs, double limit) {
  const auto actual = call(name, moved(inputs, at::kCUDA));
  const auto expected = call(name, moved(inputs, at::kCPU));
  REQUIRE(actual.size() == expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    CAPTURE(fmt::format("{}: result {}", name, i));
    CHECK(actual[i].is_cuda());
    CHECK(type_name(actual[i]) == type_name(expected[i]));
    CHECK(difference(actual[i], expected[i], 1) < limit);
  }
}

double limit_of(const OperatorSpec& spec, at::ScalarType type) {
  return type == at::kBFloat16 ? spec.low_precision_tolerance : spec.rtol;
}

// Widths that are a power of two, that leave rows unaligned, and whose weight gradients do not fit
// into shared memory.
const std::vector<std::vector<int64_t>> kSizes = {{1, 1},      {3, 77},     {5, 3, 64},
                                                  {300, 1000}, {700, 4096}, {2, 13001}};

const std::vector<at::ScalarType> kTypes = {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble};

}  // namespace

TEST_CASE("every registered operator gives on the device what it gives on the cpu") {
  if (skip_without_device()) return;
  load_plugins();
  at::manual_seed(10);
  CHECK(operator_specs().size() >= 2);
  for (const auto& spec : operator_specs()) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      for (const auto& inputs : spec.sample_inputs(type)) {
        check_operator(spec.name, inputs, limit_of(spec, type));
      }
    }
  }
}

TEST_CASE("double norm and concatenation agrees at sizes of real drafts and at odd ones") {
  if (skip_without_device()) return;
  load_plugins();
  at::manual_seed(11);
  for (const auto type : kTypes) {
    for (const auto& size : kSizes) {
      for (const bool twice : {false, true}) {
        CAPTURE(fmt::format("{} width {} twice {}", c10::toString(type), size.back(), twice));
        const auto weight = [&] { return (at::rand({size.back()}) + 0.5).to(type); };
        check_operator(
            "outrider_eagle::double_norm_concat",
            {at::randn(size).to(type), at::randn(size).to(type), weight(), weight(), 1e-5, twice},
            tolerance(type));
      }
    }
  }
}

TEST_CASE("the residual block's epilogue agrees at sizes of real drafts and at odd ones") {
  if (skip_without_device()) return;
  load_plugins();
  at::manual_seed(12);
  for (const auto type : kTypes) {
    for (const auto& size : kSizes) {
      CAPTURE(fmt::format("{} width {}", c10::toString(type), size.back()));
      check_operator("outrider_medusa::residual_silu",
                     {at::randn(size).to(type), (at::randn(size) * 3).to(type),
                      at::randn({size.back()}).to(type)},
                     tolerance(type));
    }
  }
}

TEST_CASE("weight gradients of the plugins' operators have the same bits every time") {
  if (skip_without_device()) return;
  load_plugins();
  at::manual_seed(13);
  const auto rows = [] { return at::randn({900, 2048}).to(at::kBFloat16); };
  const auto weight = [] { return at::rand({2048}).to(at::kBFloat16); };
  const std::vector<std::pair<std::string, OperatorInputs>> calls = {
      {"outrider_eagle::double_norm_concat", {rows(), rows(), weight(), weight(), 1e-5, false}},
      {"outrider_medusa::residual_silu", {rows(), rows(), weight()}}};
  for (const auto& [name, inputs] : calls) {
    CAPTURE(name);
    const auto first = call(name, moved(inputs, at::kCUDA));
    const auto second = call(name, moved(inputs, at::kCUDA));
    for (size_t i = 0; i < first.size(); ++i) CHECK(at::equal(first[i], second[i]));
  }
}

}  // namespace outrider::testing
