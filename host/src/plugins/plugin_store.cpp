#include "outrider/host/plugin_store.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ostream>
#include <set>
#include <string_view>
#include <utility>

#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/host/plugin_file.h"
#include "outrider/text.h"
#include "plugins/folder_lock.h"
#include "plugins/plugin_files.h"
#include "plugins/search_path.h"
#include "plugins/trust.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;
using Entry = PluginLock::Entry;
using Entries = std::vector<Entry>;

constexpr size_t kShownHashDigits = 12;
constexpr fs::perms kFileMode{0644};

/// Without the rights that a umask may leave to the group, which the gate file trust refuses.
void make_folders(const fs::path& folder) {
  fs::path made;
  for (const auto& part : folder) {
    made /= part;
    if (::mkdir(made.c_str(), 0755) == 0 || errno == EEXIST || fs::is_directory(made)) continue;
    throw Error(
        ErrorCode::kWriteFailed,
        fmt::format("cannot create {}: {}", in_quotes(made.string()), std::strerror(errno)));
  }
}

/// Temporary files of processes that were killed: whoever holds the lock writes alone.
void remove_leftovers(const fs::path& folder) {
  std::vector<fs::path> leftovers;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const auto name = entry.path().filename().string();
    if (name.starts_with('.') && name.find(".tmp-") != std::string::npos) {
      leftovers.push_back(entry.path());
    }
  }
  for (const auto& path : leftovers) fs::remove(path, ignored);
}

Entry entry_of(const PluginInfo& plugin, std::string file) {
  return {std::move(file), plugin.name, plugin.version.to_string(), plugin.sha256};
}

std::string file_name_of(const PluginInfo& plugin) {
  return fmt::format("{}-{}-{}{}", plugin.name, plugin.version.to_string(),
                     plugin.sha256.substr(0, kShownHashDigits), kPluginSuffix);
}

std::optional<PluginInfo> readable(const fs::path& file) {
  try {
    const auto plugin = PluginFile::open(file).info();
    return plugin.name.empty() ? std::nullopt : std::optional(plugin);
  } catch (const Error&) {
    return {};
  }
}

/// Whether the loader would take the file for what the entry says.
bool is_intact(const fs::path& folder, const Entry& entry) {
  const auto plugin = readable(folder / entry.file);
  return plugin && plugin->sha256 == entry.sha256;
}

/// Files that no entry names: of a process that was killed, or put there by hand.
Entries unlocked_entries(const fs::path& folder, const PluginLock& lock) {
  Entries entries;
  for (const auto& path : plugin_files(folder)) {
    const auto name = path.filename().string();
    if (lock.find(name) != nullptr) continue;
    if (const auto plugin = readable(path)) entries.push_back(entry_of(*plugin, name));
  }
  return entries;
}

bool is_rival(const Entry& a, const Entry& b) {
  return a.name == b.name && a.version == b.version && a.sha256 != b.sha256;
}

void check_expected(const PluginInfo& plugin, const std::string& sha256) {
  if (sha256.empty() || sha256 == plugin.sha256) return;
  throw Error(ErrorCode::kPluginHashMismatch,
              fmt::format("plugin {}: its SHA-256 is {}, expected is {}",
                          printable(plugin.path.string()), plugin.sha256, printable(sha256)),
              "get the file again from where the expected SHA-256 is published");
}

[[noreturn]] void fail_taken(const Entry& wanted, const Entry& present) {
  throw Error(ErrorCode::kPluginConflict,
              fmt::format("the store has another file as plugin {} {}: its SHA-256 is {}, that of "
                          "the given file {}",
                          wanted.name, wanted.version, printable(present.sha256), wanted.sha256),
              "two files of one version cannot both be right: give the new one a version of its "
              "own, or take it instead of the old one with --replace");
}

/// Takes what stands in the way of the wanted entry out of the lock; with `replace` it is returned,
/// with files that a killed replacement left. Throws unless it may be replaced.
Entries take_rivals(const fs::path& folder, PluginLock& lock, const Entry& wanted, bool replace) {
  const auto stands_in_the_way = [&](const Entry& entry) { return is_rival(entry, wanted); };
  auto rivals = replace ? unlocked_entries(folder, lock) : Entries{};
  std::erase_if(rivals, [&](const Entry& entry) { return !stands_in_the_way(entry); });
  for (const auto& entry : lock.entries) {
    if (!stands_in_the_way(entry)) continue;
    if (!replace) fail_taken(wanted, entry);
    rivals.push_back(entry);
  }
  std::erase_if(lock.entries, stands_in_the_way);
  return rivals;
}

void put_entry(PluginLock& lock, const Entry& entry) {
  std::erase_if(lock.entries, [&](const Entry& other) { return other.file == entry.file; });
  lock.entries.push_back(entry);
  std::ranges::sort(lock.entries, {}, &Entry::file);
}

void write_plugin(const fs::path& path, const std::vector<std::byte>& content) {
  write_file_atomically(path, kFileMode, [&](std::ostream& out) {
    out.write(reinterpret_cast<const char*>(content.data()),
              static_cast<std::streamsize>(content.size()));
  });
}

void delete_files(const fs::path& folder, const Entries& entries) {
  for (const auto& entry : entries) {
    std::error_code error;
    fs::remove(folder / entry.file, error);
    if (!error) continue;
    throw Error(ErrorCode::kWriteFailed,
                fmt::format("{} is not trusted any more, but cannot be deleted: {}",
                            in_quotes((folder / entry.file).string()), error.message()));
  }
}

/// What a removal names, among all that is there.
Entries chosen(const Entries& all, const PluginStore::Removal& removal) {
  Entries entries;
  for (const auto& entry : all) {
    const bool fits = !removal.version || entry.version == removal.version->to_string();
    if (entry.name == removal.name && fits) entries.push_back(entry);
  }
  return entries;
}

std::vector<std::string> versions_of(const Entries& entries) {
  std::set<std::string> versions;
  for (const auto& entry : entries) versions.insert(printable(entry.version));
  return {versions.begin(), versions.end()};
}

[[noreturn]] void fail_not_stored(const fs::path& folder, const Entries& all,
                                  const PluginStore::Removal& removal) {
  const auto versions = versions_of(chosen(all, {.name = removal.name, .version = {}}));
  std::set<std::string> names;
  for (const auto& entry : all) names.insert(entry.name);
  const auto what = removal.version && !versions.empty()
                        ? fmt::format("plugin '{}' {}", removal.name, removal.version->to_string())
                        : fmt::format("plugin '{}'", printable(removal.name));
  throw Error(ErrorCode::kPluginNotFound,
              fmt::format("the store {} has no {}", printable(folder.string()), what),
              versions.empty() ? suggestion(removal.name, {names.begin(), names.end()})
                               : "it has " + join(versions, ", "));
}

void check_one_version(const Entries& entries, const PluginStore::Removal& removal) {
  const auto versions = versions_of(entries);
  if (versions.size() < 2 || removal.all) return;
  throw Error(ErrorCode::kPluginAmbiguous,
              fmt::format("the store has several versions of plugin '{}': {}", removal.name,
                          join(versions, ", ")),
              "name one with --version, or remove them all with --all");
}

}  // namespace

PluginStore::PluginStore(const fs::path& folder) : folder_(folder.lexically_normal()) {
  if (folder_.is_absolute()) return;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("a plugin store in '{}', which is no absolute path", printable(folder.string())));
}

PluginStore PluginStore::of_user() {
  if (auto folder = user_plugin_folder()) return PluginStore(*folder);
  throw Error(ErrorCode::kFileNotFound,
              "there is no folder for your plugins: neither XDG_DATA_HOME nor HOME is an absolute "
              "path",
              "set HOME");
}

PluginStore::Added PluginStore::add(const fs::path& file, const AddOptions& options) const {
  std::vector<std::byte> content;
  const auto source = PluginFile::open_source(file, content);
  check_expected(source.info(), options.sha256);
  source.check();
  make_folders(folder_);
  check_trusted_folder(folder_);
  const FolderLock guard(folder_);
  remove_leftovers(folder_);

  auto lock = PluginLock::read(folder_);
  const auto entry = entry_of(source.info(), file_name_of(source.info()));
  auto rivals = take_rivals(folder_, lock, entry, options.replace);
  const auto* present = lock.find(entry.file);
  const bool is_locked = present != nullptr && present->sha256 == entry.sha256;
  const bool is_whole = is_intact(folder_, entry);
  if (!is_whole) write_plugin(folder_ / entry.file, content);
  put_entry(lock, entry);
  if (!is_locked || !rivals.empty()) lock.write(folder_);
  std::erase_if(rivals, [&](const Entry& rival) { return rival.file == entry.file; });
  delete_files(folder_, rivals);

  auto plugin = source.info();
  plugin.path = folder_ / entry.file;
  return {std::move(plugin), !is_locked || !is_whole, std::move(rivals)};
}

Entries PluginStore::remove(const Removal& removal) const {
  if (!fs::is_directory(folder_)) fail_not_stored(folder_, {}, removal);
  const FolderLock guard(folder_);
  remove_leftovers(folder_);
  auto lock = PluginLock::read(folder_);
  auto all = unlocked_entries(folder_, lock);
  all.insert(all.end(), lock.entries.begin(), lock.entries.end());
  auto entries = chosen(all, removal);
  if (entries.empty()) fail_not_stored(folder_, all, removal);
  check_one_version(entries, removal);
  std::erase_if(lock.entries, [&](const Entry& entry) {
    return std::ranges::count(entries, entry.file, &Entry::file) > 0;
  });
  lock.write(folder_);
  delete_files(folder_, entries);
  return entries;
}

}  // namespace outrider
