#include "strict_load.h"

namespace outrider {

void load_strictly(const TensorMap& targets, const StoredTensors& stored,
                   const std::function<bool(const std::string&)>& may_be_ignored,
                   const TensorName& shown, TensorMismatches& mismatches) {
  for (const auto& [name, target] : targets) {
    const auto found = stored.find(name);
    if (found == stored.end()) {
      mismatches.add("missing", shown(name));
    } else {
      mismatches.copy(target, found->second.load(), shown(name));
    }
  }
  for (const auto& [name, tensor] : stored) {
    if (!targets.contains(name) && !may_be_ignored(name)) mismatches.add("unexpected", shown(name));
  }
}

}  // namespace outrider
