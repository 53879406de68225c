#include "outrider/host/plugin_lock.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/files/json_file.h"
#include "outrider/host/plugin_file.h"
#include "outrider/host/sha256.h"
#include "outrider/json.h"
#include "outrider/text.h"
#include "plugins/plugin_files.h"

namespace outrider {
namespace {

constexpr int kLockFormatVersion = 1;

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what) {
  throw Error(ErrorCode::kInvalidFile, fmt::format("{}: {}", printable(file.string()), what),
              "delete it, and run `outrider plugin add FILE` for each plugin that you trust");
}

[[noreturn]] void fail_name(const std::filesystem::path& file) {
  throw Error(ErrorCode::kInvalidArgument,
              in_quotes(file.string()) + ": a lock file cannot hold a name that is not UTF-8",
              "rename the plugin's file");
}

std::string text_at(const Json& entry, const char* key, const std::filesystem::path& file,
                    size_t index) {
  if (!entry.is_object() || !entry.contains(key) || !entry.at(key).is_string()) {
    fail(file, fmt::format("/plugins/{}/{} is missing or no string", index, key));
  }
  return entry.at(key).get<std::string>();
}

PluginLock::Entry parse_entry(const Json& json, const std::filesystem::path& file, size_t index) {
  PluginLock::Entry entry{text_at(json, "file", file, index), text_at(json, "name", file, index),
                          text_at(json, "version", file, index),
                          text_at(json, "sha256", file, index)};
  if (entry.file.empty() || std::filesystem::path(entry.file).filename() != entry.file) {
    fail(file, fmt::format("/plugins/{}/file is no name of a file in its folder", index));
  }
  if (!is_sha256(entry.sha256)) {
    fail(file, fmt::format("/plugins/{}/sha256 is no SHA-256 in lower-case hexadecimal", index));
  }
  return entry;
}

}  // namespace

PluginLock PluginLock::read(const std::filesystem::path& folder) {
  PluginLock lock;
  const auto file = folder / kFileName;
  if (!std::filesystem::exists(file)) return lock;
  const auto json = read_json_file(file);
  if (!json.is_object() || json.value("format_version", Json()) != Json(kLockFormatVersion)) {
    fail(file, fmt::format("format_version is not {}", kLockFormatVersion));
  }
  if (!json.contains("plugins") || !json.at("plugins").is_array()) fail(file, "no list 'plugins'");
  for (const auto& entry : json.at("plugins")) {
    lock.entries.push_back(parse_entry(entry, file, lock.entries.size()));
  }
  return lock;
}

void PluginLock::write(const std::filesystem::path& folder) const {
  Json plugins = Json::array();
  for (const auto& entry : entries) {
    if (!is_utf8(entry.file)) fail_name(folder / entry.file);
    plugins.push_back({{"file", entry.file},
                       {"name", entry.name},
                       {"version", entry.version},
                       {"sha256", entry.sha256}});
  }
  const Json json = {{"format_version", kLockFormatVersion}, {"plugins", std::move(plugins)}};
  // Whoever can change it can make files trusted: a umask must not let a group do that.
  write_file_atomically(folder / kFileName, std::filesystem::perms{0644},
                        [&](std::ostream& out) { out << json.dump(2) << '\n'; });
}

const PluginLock::Entry* PluginLock::find(const std::string& file) const {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const Entry& entry) { return entry.file == file; });
  return found == entries.end() ? nullptr : &*found;
}

PluginLock PluginLock::of_folder(const std::filesystem::path& folder) {
  PluginLock lock;
  for (const auto& path : plugin_files(folder)) {
    const auto file = PluginFile::open(path);
    file.check();
    const auto& info = file.info();
    lock.entries.push_back(
        {path.filename().string(), info.name, info.version.to_string(), info.sha256});
  }
  return lock;
}

}  // namespace outrider
