#include "json_differences.h"

#include <fmt/format.h>

#include <set>

#include "outrider/text.h"

namespace outrider {
namespace {

std::string shown(const Json& json, const std::string& key) {
  return json.contains(key) ? printable(json.at(key).dump(), 80) : "not given";
}

}  // namespace

std::vector<std::string> differences(const Json& now, const Json& before) {
  std::set<std::string> keys;
  for (const auto* json : {&now, &before}) {
    for (const auto& [key, value] : json->items()) keys.insert(key);
  }
  std::vector<std::string> texts;
  for (const auto& key : keys) {
    if (now.contains(key) && before.contains(key) && now.at(key) == before.at(key)) continue;
    texts.push_back(
        fmt::format("{} is {}, was {}", printable(key), shown(now, key), shown(before, key)));
  }
  return texts;
}

}  // namespace outrider
