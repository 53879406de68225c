#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/host/plugin_info.h"
#include "outrider/sdk/stamp.h"

namespace outrider {

/// What the bytes of a shared library say, read with bounds checks and without loading it.
struct ElfFacts {
  std::vector<PluginStamp> stamps;
  std::vector<std::string> needed;
  bool has_rpath = false, is_nodelete = false;
  bool has_entry = false;  // defines kEntrySymbol
};

/// Throws kPluginNotElf or kPluginBadStamp; `origin` is used in messages only.
OUTRIDER_API ElfFacts read_elf_facts(std::span<const std::byte> file, const std::string& origin);

/// The stamp of this host: what a plugin must have been built for.
OUTRIDER_API PluginStamp host_stamp();

/// Every reason why a plugin with this stamp cannot run in this host, empty when it can.
OUTRIDER_API std::vector<std::string> incompatibilities(const PluginStamp& plugin,
                                                        const PluginStamp& host);

/// Libraries outside the allow-list, and RPATHs; empty when the dependencies are acceptable.
OUTRIDER_API std::vector<std::string> dependency_problems(const ElfFacts& facts);

/// A plugin file that passed the gates up to the dependencies; its descriptor stays open for the
/// life of the process once it is loaded.
class OUTRIDER_API PluginFile {
 public:
  /// Gates file trust and content: a regular file, no symlink, owned by root or this user, no
  /// parent folder that others may write to (a sticky root-owned one passes) or that is a
  /// checkpoint or data folder. Reads it once.
  static PluginFile open(const std::filesystem::path& path);
  /// For installing what the file holds now: whoever can change it, but not out of a checkpoint or
  /// data folder. `content` becomes the bytes that are checked.
  static PluginFile open_source(const std::filesystem::path& path, std::vector<std::byte>& content);
  PluginFile(PluginFile&& other) noexcept;
  PluginFile& operator=(PluginFile&& other) noexcept;
  ~PluginFile();

  /// Gates stamp, compatibility, dependencies, and that there is an entry function. Throws the
  /// gate's error.
  void check() const;

  const PluginInfo& info() const { return info_; }  // needs a readable stamp
  /// A path that names the very bytes that were checked.
  std::string descriptor_path() const;
  /// Keeps the descriptor open for good.
  void keep_open();

 private:
  PluginFile() = default;
  void examine(const std::filesystem::path& path, std::span<const std::byte> content);

  int descriptor_ = -1;
  bool keep_open_ = false;
  ElfFacts facts_;
  PluginInfo info_;
};

}  // namespace outrider
