#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "outrider/api.h"
#include "outrider/json.h"
#include "outrider/model/base_info.h"
#include "outrider/model/draft.h"

namespace outrider {

/// Draft classes by mode and base architecture (ModelOpt's EagleDMRegistry): what a mode that looks
/// here builds instead of its own class. Plugins add theirs in their entry function.
class OUTRIDER_API DraftModelRegistry {
 public:
  /// Builds the draft from what the checkpoint records: the mode's resolved config, and its
  /// metadata.
  using Factory = std::function<std::shared_ptr<Draft>(const BaseInfo&, const Json& config,
                                                       const Json& metadata)>;

  /// The process's registry; it starts empty.
  static DraftModelRegistry& instance();

  /// Throws kPluginConflict if there is a class for this mode and architecture.
  void add(const std::string& mode, const std::string& architecture, Factory factory);
  /// Empty where the mode's own class is to be used.
  Factory find(const std::string& mode, const std::string& architecture) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, Factory> factories_;
};

}  // namespace outrider
