#include "plugins/stamp_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "outrider/error.h"
#include "outrider/text.h"
#include "outrider/version.h"

namespace outrider {
namespace {

template <size_t N>
bool is_text(const char (&field)[N]) {
  const auto end = std::find(field, field + N, '\0');
  return end != field + N && std::all_of(field, end, [](char c) { return c >= ' ' && c <= '~'; });
}

bool is_name(std::string_view name) {
  const auto is_lower = [](char c) { return c >= 'a' && c <= 'z'; };
  const auto is_allowed = [&](char c) { return is_lower(c) || (c >= '0' && c <= '9') || c == '_'; };
  return !name.empty() && name.size() <= 63 && is_lower(name[0]) &&
         std::all_of(name.begin(), name.end(), is_allowed);
}

bool is_semver(std::string_view text) {
  try {
    SemVer::parse(text);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// What is wrong with the stamp's texts, or nothing.
std::string text_problem(const PluginStamp& stamp) {
  if (!(is_text(stamp.platform) && is_text(stamp.stdlib) && is_text(stamp.torch_build) &&
        is_text(stamp.json_abi) && is_text(stamp.cuda_archs) && is_text(stamp.plugin_name) &&
        is_text(stamp.plugin_version) && is_text(stamp.modes))) {
    return "a text without an end, or with characters outside printable ASCII";
  }
  if (!is_name(stamp.plugin_name)) {
    return fmt::format("'{}' is no plugin name", printable(stamp.plugin_name));
  }
  if (!is_semver(stamp.plugin_version)) {
    return fmt::format("'{}' is no semantic version", printable(stamp.plugin_version));
  }
  const auto modes = split_modes(stamp.modes);
  if (!std::all_of(modes.begin(), modes.end(), is_name)) {
    return fmt::format("'{}' is no list of mode names", printable(stamp.modes));
  }
  return {};
}

}  // namespace

PluginStamp parse_stamp(std::span<const std::byte> content, const std::string& origin) {
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorCode::kPluginBadStamp,
                fmt::format("{}: the plugin's stamp is malformed: {}", printable(origin), what),
                "rebuild the plugin with outrider_add_plugin()");
  };
  PluginStamp stamp{};
  if (content.size() < sizeof(stamp)) {
    fail(fmt::format("it has {} bytes, at least {} are needed", content.size(), sizeof(stamp)));
  }
  std::memcpy(&stamp, content.data(), sizeof(stamp));
  if (std::memcmp(stamp.magic, kStampMagic, sizeof(kStampMagic)) != 0) fail("wrong magic bytes");
  if (stamp.stamp_size < sizeof(stamp) || stamp.stamp_size > content.size()) {
    fail(
        fmt::format("it gives its size as {} bytes, but has {}", stamp.stamp_size, content.size()));
  }
  if (const auto problem = text_problem(stamp); !problem.empty()) fail(problem);
  return stamp;
}

std::vector<std::string> split_modes(std::string_view modes) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= modes.size();) {
    const auto end = std::min(modes.find(',', begin), modes.size());
    names.emplace_back(modes.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

}  // namespace outrider
