#include "outrider/ops/operator_library.h"

#include <deque>
#include <optional>

#include "ops/core_operators.h"
#include "outrider/kernels/launch.h"

namespace outrider {
namespace {

// Leaked on purpose: the dispatcher and autograd graphs point into the libraries.
std::deque<torch::Library>& libraries() {
  static auto& all = *new std::deque<torch::Library>;
  return all;
}

std::vector<OperatorSpec>& specs() {
  static auto& all = *new std::vector<OperatorSpec>(register_core_operators());
  return all;
}

void refuse(const c10::OperatorHandle& op, torch::jit::Stack*) {
  kernels::throw_no_kernel(op.schema().name());
}

}  // namespace

torch::Library& define_operator_namespace(const std::string& name) {
  return libraries().emplace_back(torch::Library::DEF, name, std::nullopt, __FILE__, __LINE__);
}

torch::Library& implement_operators(const std::string& name, c10::DispatchKey key) {
  return libraries().emplace_back(torch::Library::IMPL, name, key, __FILE__, __LINE__);
}

torch::Library& extend_operator_namespace(const std::string& name) {
  return libraries().emplace_back(torch::Library::FRAGMENT, name, std::nullopt, __FILE__, __LINE__);
}

torch::CppFunction missing_kernel() { return torch::CppFunction::makeFromBoxedFunction<&refuse>(); }

void add_operator_spec(OperatorSpec spec) { specs().push_back(std::move(spec)); }

const std::vector<OperatorSpec>& operator_specs() { return specs(); }

bool is_core_operator(const OperatorSpec& spec) {
  return spec.name.starts_with(std::string(kCoreNamespace) + "::");
}

}  // namespace outrider
