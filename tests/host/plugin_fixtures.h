#pragma once

#include <doctest/doctest.h>
#include <elf.h>

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/sdk/stamp.h"

namespace outrider::testing {

using Bytes = std::vector<std::byte>;

/// A new empty folder that only this user can write to, removed at the end.
class PrivateFolder {
 public:
  PrivateFolder();
  ~PrivateFolder();
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// An environment variable that is restored at the end.
class ScopedVariable {
 public:
  ScopedVariable(std::string name, const std::string& value);
  ~ScopedVariable();

 private:
  std::string name_, before_;
  bool was_set_;
};

/// "tiny" or "probe" as it was built.
std::filesystem::path built_plugin(const std::string& name);

Bytes read_bytes(const std::filesystem::path& path);
Bytes as_bytes(const std::string& text);
/// Writes with mode 0644, whatever the umask.
void write_bytes(const std::filesystem::path& path, const Bytes& bytes);

/// Changes the stamp in a plugin's bytes.
void edit_stamp(Bytes& plugin, const std::function<void(PluginStamp&)>& edit);
/// Writes a text and its end into a field of a stamp.
template <size_t N>
void set_text(char (&field)[N], const std::string& text) {
  REQUIRE(text.size() < N);
  text.copy(field, N);
  field[text.size()] = '\0';
}
/// A plugin's bytes under another name and version.
Bytes renamed(Bytes plugin, const std::string& name, const std::string& version);

void edit_header(Bytes& file, const std::function<void(Elf64_Ehdr&)>& edit);
/// Calls `edit` with every program header.
void edit_segments(Bytes& file, const std::function<void(Elf64_Phdr&)>& edit);
/// Calls `edit` with every entry of the dynamic section.
void edit_dynamic(Bytes& file, const std::function<void(Elf64_Dyn&)>& edit);
/// Replaces every occurrence of a text by another one of the same length; at least one must exist.
void replace_text(Bytes& file, const std::string& from, const std::string& to);

/// A folder with a changed copy of the probe in it, locked as it is, and a loader that needs the
/// lock.
struct ProbeFolder {
  explicit ProbeFolder(const std::function<void(Bytes&)>& change = [](Bytes&) {});

  std::filesystem::path file() const { return folder / "probe.outrider.so"; }
  /// Writes a lock over the file as it is now.
  void lock() const;
  void load() { loader.load({.name = "probe"}); }
  /// Whether code of a probe ran since this folder was made.
  bool ran() const;

  PrivateFolder folder;
  SpeculativeDecodingModeRegistry registry;
  PluginLoader loader{{.search_path = {folder.path()}, .require_lock = true}, registry};
};

/// Checks that `run` throws an Error of this code whose message or hint contains `part`.
void check_error(ErrorCode code, const std::string& part, const std::function<void()>& run);

}  // namespace outrider::testing
