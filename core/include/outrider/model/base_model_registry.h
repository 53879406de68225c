#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// Architectures by the name in config.json. Plugins may add theirs in their entry function.
class OUTRIDER_API BaseModelRegistry {
 public:
  /// Builds a model whose parameters have the config's shapes and uninitialised values.
  using Factory = std::function<std::shared_ptr<CausalLM>(const ModelConfig&, at::TensorOptions)>;

  /// The process's registry; it knows the built-in architectures.
  static BaseModelRegistry& instance();

  /// Throws kPluginConflict if the name is taken.
  void add(const std::string& architecture, Factory factory);
  /// Throws kUnknownArchitecture, naming those that are known.
  void check_known(const std::string& architecture) const;
  /// Throws as check_known() and as the architecture's family does.
  std::shared_ptr<CausalLM> create(const ModelConfig& config, at::TensorOptions options) const;
  bool knows(const std::string& architecture) const;
  std::vector<std::string> names() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Factory> factories_;
};

}  // namespace outrider
