// Plugins that are refused for where they are, what the lock says of them, or what they do.
#include <doctest/doctest.h>

#include "outrider/host/plugin_file.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/host/sha256.h"
#include "wrong_plugins.h"

namespace outrider::wrong_load_tests {
namespace {

using namespace testing;
using std::filesystem::perms;

std::function<void(ProbeFolder&)> mode_of_file(int mode) {
  return [=](ProbeFolder& probe) { std::filesystem::permissions(probe.file(), perms(mode)); };
}

std::function<void(ProbeFolder&)> mode_of_folder(int mode) {
  return
      [=](ProbeFolder& probe) { std::filesystem::permissions(probe.folder.path(), perms(mode)); };
}

void make_link(ProbeFolder& probe) {
  std::filesystem::rename(probe.file(), probe.folder / "elsewhere");
  std::filesystem::create_symlink(probe.folder / "elsewhere", probe.file());
}

std::function<void(ProbeFolder&)> file_beside(const std::string& name) {
  return [=](ProbeFolder& probe) { write_bytes(probe.folder / name, as_bytes("{}")); };
}

TEST_CASE("a file that others can change, or that came with data") {
  constexpr auto kCode = ErrorCode::kPluginUntrusted;
  check_wrong_plugins({
      {"everyone", mode_of_file(0666), kCode, "can be written to by everyone"},
      {"group", mode_of_file(0664), kCode, "can be written to by its group"},
      {"its folder", mode_of_folder(0777), kCode, "can be written to by everyone"},
      {"its folder's group", mode_of_folder(0770), kCode, "can be written to by its group"},
      {"a link", make_link, kCode, "it is a symbolic link"},
      {"in a checkpoint", file_beside("outrider_state.json"), kCode,
       "is a checkpoint or data folder: it holds outrider_state.json"},
      {"in a data folder", file_beside("shards.json"), kCode,
       "is a checkpoint or data folder: it holds shards.json"},
  });
}

void change_last_byte(ProbeFolder& probe) {
  auto file = read_bytes(probe.file());
  file.back() ^= std::byte{1};
  write_bytes(probe.file(), file);
}

/// Of the same name and version, and locked, too.
void add_other_content(ProbeFolder& probe) {
  auto file = read_bytes(probe.file());
  file.push_back(std::byte{0});
  write_bytes(probe.folder / "other.outrider.so", file);
  PluginLock::of_folder(probe.folder.path()).write(probe.folder.path());
}

TEST_CASE("a file that the lock does not vouch for, or two that it does") {
  constexpr auto kCode = ErrorCode::kPluginHashMismatch;
  check_wrong_plugins({
      {"no lock",
       [](ProbeFolder& probe) { std::filesystem::remove(probe.folder / PluginLock::kFileName); },
       kCode, "does not list it"},
      {"not listed", [](ProbeFolder& probe) { PluginLock().write(probe.folder.path()); }, kCode,
       "`outrider plugin add /"},
      {"changed after it was locked", change_last_byte, kCode, "it changed after it was locked"},
      {"a malformed lock",
       [](ProbeFolder& probe) {
         write_bytes(probe.folder / PluginLock::kFileName, as_bytes("{}"));
       },
       ErrorCode::kInvalidFile, "format_version is not 1"},
      {"same version, other content", add_other_content, ErrorCode::kPluginAmbiguous,
       "two different files are plugin probe 0.1.0"},
  });
}

TEST_CASE("a file that replaces a checked one is not what the check was of") {
  ProbeFolder probe;
  const auto checked = PluginFile::open(probe.file());
  checked.check();
  write_bytes(probe.folder / "new", as_bytes("not what was checked"));
  std::filesystem::rename(probe.folder / "new", probe.file());
  CHECK(sha256_of_file(checked.descriptor_path()) == checked.info().sha256);
  CHECK(sha256_of_file(probe.file()) != checked.info().sha256);
  check_error(ErrorCode::kPluginNotElf, "not a shared library", [&] { probe.load(); });
  CHECK_FALSE(probe.ran());
}

std::function<void(ProbeFolder&)> text(const std::string& from, const std::string& to) {
  return bytes([=](Bytes& file) { replace_text(file, from, to); });
}

TEST_CASE("a plugin that the dynamic linker refuses") {
  constexpr auto kCode = ErrorCode::kPluginLinkFailed;
  check_wrong_plugins({
      {"undefined symbol", text("ConfigSchemaD2Ev", "ConfigSchemaD9Ev"), kCode,
       "probe.outrider.so) cannot be loaded: undefined symbol: _ZN8outrider12ConfigSchemaD9Ev"},
      {"missing library", text("libstdc++.so.6", "libcudart.so.9"), kCode,
       "libcudart.so.9: cannot open shared object file"},
  });
}

TEST_CASE("a plugin whose entry function fails, or registers what it should not") {
  constexpr auto kCode = ErrorCode::kPluginRegisterFailed;
  const auto as_built = [](ProbeFolder&) {};
  check_wrong_plugins({
      {"fails after it registered", as_built, kCode,
       "failed in its entry function: the probe refuses", true, "throw"},
      {"throws an int", as_built, kCode, "an exception that is no std::exception", true,
       "throw an int"},
      {"null mode", as_built, kCode, "a mode that is a null pointer", true, "null mode"},
      {"another mode", as_built, kCode, "it registers [surprise], its stamp names [probe]", true,
       "other mode"},
      {"one mode twice", as_built, kCode, "it registers [probe, probe], its stamp names [probe]",
       true, "mode twice"},
      {"malformed preset", as_built, kCode, "mode 'probe': preset 'PROBE_CFG': ", true,
       "bad preset"},
  });
}

TEST_CASE("a second plugin with a mode that is taken registers nothing") {
  ProbeFolder first;
  first.load();
  ProbeFolder second([](Bytes& file) { file = renamed(file, "rival", "0.3.0"); });
  PluginLoader loader({.search_path = {second.folder.path()}, .require_lock = false},
                      first.registry);
  check_error(
      ErrorCode::kPluginConflict,
      "plugin rival 0.3.0 cannot be used: mode 'probe' is already provided by plugin probe 0.1.0",
      [&] { loader.load({.name = "rival"}); });
  CHECK(first.registry.get("probe").plugin.name == "probe");
}

}  // namespace
}  // namespace outrider::wrong_load_tests
