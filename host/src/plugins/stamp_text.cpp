#include "plugins/stamp_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "outrider/error.h"
#include "outrider/text.h"
#include "outrider/version.h"

namespace outrider {
namespace {

// Of SDK ABI 1, whose plugins deserve to hear that they are too old. What a stamp lacks reads as
// zeros.
constexpr size_t kOldestStampSize = offsetof(PluginStamp, bases);

template <size_t N>
bool is_text(const char (&field)[N]) {
  const auto end = std::find(field, field + N, '\0');
  return end != field + N && std::all_of(field, end, [](char c) { return c >= ' ' && c <= '~'; });
}

bool is_architecture(std::string_view name) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto is_allowed = [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '_';
  };
  return !name.empty() && name.size() <= 127 && is_letter(name[0]) &&
         std::all_of(name.begin(), name.end(), is_allowed);
}

bool is_draft_model(std::string_view name) {
  const auto slash = name.find('/');
  return slash != name.npos && is_plugin_name(name.substr(0, slash)) &&
         is_architecture(name.substr(slash + 1));
}

bool is_semver(std::string_view text) {
  try {
    SemVer::parse(text);
    return true;
  } catch (const Error&) {
    return false;
  }
}

template <class IsItem>
bool is_list_of(IsItem is_item, std::string_view text) {
  const auto items = split_names(text);
  return std::all_of(items.begin(), items.end(), is_item);
}

/// What is wrong with the stamp's texts, or nothing.
std::string text_problem(const PluginStamp& stamp) {
  if (!(is_text(stamp.platform) && is_text(stamp.stdlib) && is_text(stamp.torch_build) &&
        is_text(stamp.json_abi) && is_text(stamp.cuda_archs) && is_text(stamp.plugin_name) &&
        is_text(stamp.plugin_version) && is_text(stamp.modes) && is_text(stamp.bases) &&
        is_text(stamp.draft_models))) {
    return "a text without an end, or with characters outside printable ASCII";
  }
  if (!is_plugin_name(stamp.plugin_name)) {
    return fmt::format("'{}' is no plugin name", printable(stamp.plugin_name));
  }
  if (!is_semver(stamp.plugin_version)) {
    return fmt::format("'{}' is no semantic version", printable(stamp.plugin_version));
  }
  if (!is_list_of(is_plugin_name, stamp.modes)) {
    return fmt::format("'{}' is no list of mode names", printable(stamp.modes));
  }
  if (!is_list_of(is_architecture, stamp.bases)) {
    return fmt::format("'{}' is no list of architectures", printable(stamp.bases));
  }
  if (!is_list_of(is_draft_model, stamp.draft_models)) {
    return fmt::format("'{}' is no list of MODE/ARCHITECTURE", printable(stamp.draft_models));
  }
  const bool provides_nothing = !stamp.modes[0] && !stamp.bases[0] && !stamp.draft_models[0];
  return provides_nothing ? "it names nothing that the plugin provides" : "";
}

}  // namespace

bool is_plugin_name(std::string_view name) {
  const auto is_lower = [](char c) { return c >= 'a' && c <= 'z'; };
  const auto is_allowed = [&](char c) { return is_lower(c) || (c >= '0' && c <= '9') || c == '_'; };
  return !name.empty() && name.size() <= 63 && is_lower(name[0]) &&
         std::all_of(name.begin(), name.end(), is_allowed);
}

PluginStamp parse_stamp(std::span<const std::byte> content, const std::string& origin) {
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorCode::kPluginBadStamp,
                fmt::format("{}: the plugin's stamp is malformed: {}", printable(origin), what),
                "rebuild the plugin with outrider_add_plugin()");
  };
  PluginStamp stamp{};
  if (content.size() < kOldestStampSize) {
    fail(fmt::format("it has {} bytes, at least {} are needed", content.size(), kOldestStampSize));
  }
  std::memcpy(&stamp, content.data(), std::min(content.size(), sizeof(stamp)));
  if (std::memcmp(stamp.magic, kStampMagic, sizeof(kStampMagic)) != 0) fail("wrong magic bytes");
  if (stamp.stamp_size < kOldestStampSize || stamp.stamp_size > content.size()) {
    fail(
        fmt::format("it gives its size as {} bytes, but has {}", stamp.stamp_size, content.size()));
  }
  if (const auto problem = text_problem(stamp); !problem.empty()) fail(problem);
  return stamp;
}

std::vector<std::string> split_names(std::string_view list) {
  std::vector<std::string> names;
  if (list.empty()) return names;
  for (size_t begin = 0; begin <= list.size();) {
    const auto end = std::min(list.find(',', begin), list.size());
    names.emplace_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

}  // namespace outrider
