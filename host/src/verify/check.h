#pragma once

#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"

namespace outrider::verify {

enum class Outcome { kSame, kDiffers, kSkipped };

/// What one comparison of training and serving found.
struct Check {
  std::string name;
  Outcome outcome = Outcome::kSame;
  std::string cause;  // where it differs: "rope", "aux layers", …
  std::string detail;
  std::optional<double> figure;  // the largest difference, relative to what is compared
};
using Checks = std::vector<Check>;

/// {"ok": …, "checks": [{"name", "ok", "cause", "detail", "figure"}]}; a check that was skipped has
/// ok null.
OUTRIDER_API Json to_json(const Checks& checks);
void append(Checks& checks, const Checks& more);
/// What was found, or where that is nothing the check `name` that found everything the same.
Checks or_same(Checks found, const std::string& name, const std::string& detail);

/// The causes of what differs, each once, in order.
OUTRIDER_API std::vector<std::string> causes_in(const Checks& checks);

}  // namespace outrider::verify
