#include "outrider/model/draft_model_registry.h"

#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {

DraftModelRegistry& DraftModelRegistry::instance() {
  static auto& registry = *new DraftModelRegistry;
  return registry;
}

void DraftModelRegistry::add(const std::string& mode, const std::string& architecture,
                             Factory factory) {
  const std::lock_guard lock(mutex_);
  if (!factories_.emplace(std::pair(mode, architecture), std::move(factory)).second) {
    throw Error(ErrorCode::kPluginConflict,
                fmt::format("mode {} has a draft class for {} already", in_quotes(mode),
                            in_quotes(architecture)),
                "use one of the two plugins in a process");
  }
}

DraftModelRegistry::Factory DraftModelRegistry::find(const std::string& mode,
                                                     const std::string& architecture) const {
  const std::lock_guard lock(mutex_);
  const auto found = factories_.find({mode, architecture});
  return found == factories_.end() ? Factory() : found->second;
}

}  // namespace outrider
