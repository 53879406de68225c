#include "outrider/ops/operator_library.h"

#include <deque>
#include <optional>

namespace outrider {
namespace {

// Leaked on purpose: the dispatcher and autograd graphs point into the libraries.
std::deque<torch::Library>& libraries() {
  static auto& all = *new std::deque<torch::Library>;
  return all;
}

std::vector<OperatorSpec>& specs() {
  static auto& all = *new std::vector<OperatorSpec>;
  return all;
}

}  // namespace

torch::Library& define_operator_namespace(const std::string& name) {
  return libraries().emplace_back(torch::Library::DEF, name, std::nullopt, __FILE__, __LINE__);
}

torch::Library& implement_operators(const std::string& name, c10::DispatchKey key) {
  return libraries().emplace_back(torch::Library::IMPL, name, key, __FILE__, __LINE__);
}

void add_operator_spec(OperatorSpec spec) { specs().push_back(std::move(spec)); }

const std::vector<OperatorSpec>& operator_specs() { return specs(); }

}  // namespace outrider
