#include "plugins/search_path.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>

#include "outrider/error.h"
#include "outrider/host/plugin_file.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/text.h"

namespace outrider {
namespace {

using std::filesystem::path;

/// Ignored in programs that run with more rights than their user has.
std::string environment(const char* name) {
  const char* value = ::secure_getenv(name);
  return value == nullptr ? "" : value;
}

void add_folder(std::vector<path>& folders, const path& folder, std::string_view source) {
  if (!folder.is_absolute()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{}: {} is no absolute path", source,
                    folder.empty() ? "an empty element" : "'" + printable(folder.string()) + "'"),
        "plugins are never looked for relative to the current folder: give whole paths");
  }
  const auto normal = folder.lexically_normal();
  if (std::find(folders.begin(), folders.end(), normal) == folders.end()) {
    folders.push_back(normal);
  }
}

void add_environment(std::vector<path>& folders) {
  const auto value = environment("OUTRIDER_PLUGIN_PATH");
  if (value.empty()) return;
  for (size_t begin = 0; begin <= value.size();) {
    const auto end = std::min(value.find(':', begin), value.size());
    add_folder(folders, value.substr(begin, end - begin), "OUTRIDER_PLUGIN_PATH");
    begin = end + 1;
  }
}

}  // namespace

path installed_data_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&installed_data_folder), &info) == 0) return {};
  std::error_code error;
  const auto library = std::filesystem::canonical(info.dli_fname, error);
  return error ? path() : library.parent_path() / "outrider";
}

std::optional<path> user_plugin_folder() {
  path data = environment("XDG_DATA_HOME");
  if (!data.is_absolute()) {
    data = environment("HOME");
    if (!data.is_absolute()) return {};
    data /= ".local/share";
  }
  const auto host = host_stamp();
  return data / "outrider" / "plugins" / fmt::format("{}-torch{}", host.sdk_abi, host.torch_build) /
         host.platform;
}

PluginPolicy PluginPolicy::standard(const std::vector<path>& extra, bool require_lock) {
  PluginPolicy policy{.search_path = {}, .require_lock = require_lock};
  for (const auto& folder : extra) add_folder(policy.search_path, folder, "--plugin-dir");
  add_environment(policy.search_path);
  if (const auto folder = user_plugin_folder()) add_folder(policy.search_path, *folder, "");
  if (const auto folder = installed_data_folder(); !folder.empty()) {
    add_folder(policy.search_path, folder / "plugins", "");
  }
  return policy;
}

}  // namespace outrider
