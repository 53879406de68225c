#include "verify/check.h"

#include <algorithm>

namespace outrider::verify {
namespace {

Json ok_of(Outcome outcome) {
  return outcome == Outcome::kSkipped ? Json() : Json(outcome == Outcome::kSame);
}

}  // namespace

void append(Checks& checks, const Checks& more) {
  checks.insert(checks.end(), more.begin(), more.end());
}

Checks or_same(Checks found, const std::string& name, const std::string& detail) {
  if (found.empty()) found.push_back({name, Outcome::kSame, "", detail, {}});
  return found;
}

std::vector<std::string> causes_in(const Checks& checks) {
  std::vector<std::string> causes;
  for (const auto& check : checks) {
    const bool is_new = std::ranges::find(causes, check.cause) == causes.end();
    if (check.outcome == Outcome::kDiffers && is_new) causes.push_back(check.cause);
  }
  return causes;
}

Json to_json(const Checks& checks) {
  Json list = Json::array();
  for (const auto& check : checks) {
    list.push_back({{"name", check.name},
                    {"ok", ok_of(check.outcome)},
                    {"cause", check.cause},
                    {"detail", check.detail},
                    {"figure", check.figure ? Json(*check.figure) : Json()}});
  }
  return {{"ok", causes_in(checks).empty()}, {"checks", list}};
}

}  // namespace outrider::verify
