#include "verify/difference.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "outrider/text.h"

namespace outrider::verify {
namespace {

// In this order: a rope's original_max_position_embeddings is a rope's.
struct Sign {
  const char* in_name;
  const char* cause;
};
constexpr Sign kSigns[] = {{"aux", "aux layers"},
                           {"rope", "rope"},
                           {"rotary", "rope"},
                           {"max_position_embeddings", "max_position_embeddings"},
                           {"position", "positions"},
                           {"d2t", "vocabulary map"},
                           {"t2d", "vocabulary map"},
                           {"vocab", "vocabulary map"},
                           {"embed", "embeddings"},
                           {"norm", "norms"},
                           {"reference_numerics", "norms"},
                           {"eps", "norms"},
                           {"window", "masks"},
                           {"mask", "masks"},
                           {"lm_head", "head"},
                           {"token", "tokenizer"}};

std::string shown(const Json& value) {
  return value.is_discarded() ? "absent" : printable(value.dump(), 200);
}

void compare(const std::string& path, const Json& value, const Json& other, const std::string& then,
             const std::string& check, Checks& found);

void compare_members(const std::string& path, const Json& value, const Json& other,
                     const std::string& then, const std::string& check, Checks& found) {
  const Json absent(Json::value_t::discarded);
  std::set<std::string> keys;
  for (const auto* object : {&value, &other}) {
    for (const auto& [key, member] : object->items()) keys.insert(key);
  }
  const auto prefix = path.empty() ? path : path + ".";
  for (const auto& key : keys) {
    const auto member = [&](const Json& object) -> const Json& {
      const auto it = object.find(key);
      return it == object.end() ? absent : *it;
    };
    compare(prefix + key, member(value), member(other), then, check, found);
  }
}

void compare(const std::string& path, const Json& value, const Json& other, const std::string& then,
             const std::string& check, Checks& found) {
  if (value.is_object() && other.is_object()) {
    return compare_members(path, value, other, then, check, found);
  }
  if (value.is_discarded() == other.is_discarded() && value == other) return;
  const auto cause = cause_of(path);
  found.push_back(
      {check,
       Outcome::kDiffers,
       cause.empty() ? "config" : cause,
       fmt::format("{} is {}, {} {}", printable(path), shown(value), then, shown(other)),
       {}});
}

}  // namespace

std::string cause_of(std::string_view name) {
  std::string lower(name);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const auto& sign : kSigns) {
    if (lower.find(sign.in_name) != std::string::npos) return sign.cause;
  }
  return {};
}

Checks differences(const std::string& check, const Json& value, const Json& other,
                   const std::string& then) {
  Checks found;
  compare("", value, other, then, check, found);
  return found;
}

}  // namespace outrider::verify
