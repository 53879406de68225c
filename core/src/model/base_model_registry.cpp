#include "outrider/model/base_model_registry.h"

#include <fmt/format.h>

#include "model/unknown_architecture.h"
#include "outrider/error.h"
#include "outrider/model/llama.h"
#include "outrider/model/mistral.h"
#include "outrider/model/phi3.h"
#include "outrider/model/qwen2.h"
#include "outrider/model/qwen3.h"
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
    known.add("MistralForCausalLM", factory<MistralForCausalLM>());
    known.add("Phi3ForCausalLM", factory<Phi3ForCausalLM>());
    known.add("Qwen2ForCausalLM", factory<Qwen2ForCausalLM>());
    known.add("Qwen3ForCausalLM", factory<Qwen3ForCausalLM>());
    return known;
  }();
  return registry;
}

void BaseModelRegistry::add(const std::string& architecture, Factory factory) {
  const std::lock_guard lock(mutex_);
  if (!factories_.emplace(architecture, std::move(factory)).second) {
    throw Error(ErrorCode::kPluginConflict,
                fmt::format("base architecture {} is registered already", in_quotes(architecture)));
  }
}

bool BaseModelRegistry::knows(const std::string& architecture) const {
  const std::lock_guard lock(mutex_);
  return factories_.contains(architecture);
}

void BaseModelRegistry::check_known(const std::string& architecture) const {
  if (!knows(architecture)) throw unknown_architecture(architecture, Json::object(), names());
}

std::shared_ptr<CausalLM> BaseModelRegistry::create(const ModelConfig& config,
                                                    at::TensorOptions options) const {
  if (!knows(config.architecture)) {
    throw unknown_architecture(config.architecture, config.raw, names());
  }
  std::unique_lock lock(mutex_);
  const auto factory = factories_.at(config.architecture);
  lock.unlock();
  return factory(config, options);
}

std::vector<std::string> BaseModelRegistry::names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, factory] : factories_) names.push_back(name);
  return names;
}

}  // namespace outrider
