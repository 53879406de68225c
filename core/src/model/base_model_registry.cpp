#include "outrider/model/base_model_registry.h"

#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/model/llama.h"
#include "outrider/text.h"

namespace outrider {
namespace {

template <class Model>
BaseModelRegistry::Factory factory() {
  return [](const ModelConfig& config, at::TensorOptions options) {
    return std::make_shared<Model>(config, options);
  };
}

}  // namespace

BaseModelRegistry& BaseModelRegistry::instance() {
  static auto& registry = []() -> BaseModelRegistry& {
    auto& known = *new BaseModelRegistry;
    known.add("LlamaForCausalLM", factory<LlamaForCausalLM>());
    return known;
  }();
  return registry;
}

void BaseModelRegistry::add(const std::string& architecture, Factory factory) {
  if (!factories_.emplace(architecture, std::move(factory)).second) {
    throw Error(ErrorCode::kPluginConflict,
                fmt::format("base architecture '{}' is registered already", architecture));
  }
}

std::shared_ptr<CausalLM> BaseModelRegistry::create(const ModelConfig& config,
                                                    at::TensorOptions options) const {
  const auto found = factories_.find(config.architecture);
  if (found == factories_.end()) {
    throw Error(ErrorCode::kUnknownArchitecture,
                fmt::format("base architecture '{}' is not known",
                            printable(config.architecture)),
                suggestion(config.architecture, names()));
  }
  return found->second(config, options);
}

std::vector<std::string> BaseModelRegistry::names() const {
  std::vector<std::string> names;
  for (const auto& [name, factory] : factories_) names.push_back(name);
  return names;
}

}  // namespace outrider
