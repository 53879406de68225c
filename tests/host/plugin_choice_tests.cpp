#include <doctest/doctest.h>

#include "outrider/host/plugin_loader.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/host/sha256.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;
using std::filesystem::path;

/// A plugin folder, and a loader that searches it and trusts what it holds.
struct Store {
  PrivateFolder folder;
  SpeculativeDecodingModeRegistry registry;

  path add(const std::string& file, const std::string& name, const std::string& version,
           const std::string& modes = "probe") {
    auto bytes = renamed(read_bytes(built_plugin("probe")), name, version);
    edit_stamp(bytes, [&](PluginStamp& stamp) { set_text(stamp.modes, modes); });
    write_bytes(folder / file, bytes);
    return folder / file;
  }
  PluginLoader loader(bool require_lock = false) {
    return {{.search_path = {folder.path()}, .require_lock = require_lock}, registry};
  }
  std::string resolved(const PluginRequirement& requirement) {
    const auto plugin = loader().resolve(requirement);
    return plugin.path.filename().string() + " " + plugin.version.to_string();
  }
};

TEST_CASE("a reference to a plugin holds its compatible range") {
  PluginInfo plugin{.path = {},
                    .sha256 = "ab",
                    .name = "eagle",
                    .version = {},
                    .modes = {},
                    .torch_build = {},
                    .cuda_archs = {}};
  const auto range_of = [&](const char* version) {
    plugin.version = SemVer::parse(version);
    CHECK(VersionRange::parse(plugin.reference().range).contains(plugin.version));
    return plugin.reference().range;
  };
  CHECK(range_of("0.1.0") == "^0.1");
  CHECK(range_of("1.4.2") == "^1.4");
  CHECK(range_of("0.0.3") == "^0.0.3");
  CHECK(range_of("2.0.0-rc.1") == "^2.0.0-rc.1");
  CHECK(plugin.reference().name == "eagle");
  CHECK(plugin.reference().version == "2.0.0-rc.1");
  CHECK(plugin.reference().sha256 == "ab");
}

TEST_CASE("the highest version in range is chosen, whatever the file names' order") {
  Store store;
  store.add("b.outrider.so", "probe", "0.1.9");
  store.add("a.outrider.so", "probe", "0.1.10");
  store.add("c.outrider.so", "probe", "0.2.0");
  CHECK(store.resolved({.name = "probe", .range = "^0.1"}) == "a.outrider.so 0.1.10");
  CHECK(store.resolved({.name = "probe"}) == "c.outrider.so 0.2.0");
  std::filesystem::rename(store.folder / "a.outrider.so", store.folder / "z.outrider.so");
  CHECK(store.resolved({.name = "probe", .range = "^0.1"}) == "z.outrider.so 0.1.10");
}

TEST_CASE("the exact file wins over higher versions") {
  Store store;
  const auto old = store.add("old.outrider.so", "probe", "0.1.0");
  store.add("new.outrider.so", "probe", "0.1.5");
  const auto hash = sha256_of_file(old);
  CHECK(store.resolved({.name = "probe", .range = "^0.1", .sha256 = hash}) ==
        "old.outrider.so 0.1.0");
  CHECK(store.resolved({.name = "probe", .range = "^0.2", .sha256 = hash}) ==
        "old.outrider.so 0.1.0");
  std::filesystem::remove(old);
  CHECK(store.resolved({.name = "probe", .range = "^0.1", .sha256 = hash}) ==
        "new.outrider.so 0.1.5");
}

TEST_CASE("different bytes under one name and version are ambiguous unless one is asked for") {
  Store store;
  store.add("a.outrider.so", "probe", "0.1.0", "probe");
  const auto other = store.add("b.outrider.so", "probe", "0.1.0", "probe,second");
  check_error(ErrorCode::kPluginAmbiguous, "two different files are plugin probe 0.1.0",
              [&] { store.loader().resolve({.name = "probe"}); });
  check_error(ErrorCode::kPluginAmbiguous, "b.outrider.so",
              [&] { store.loader().load_mode("probe"); });
  CHECK(store.resolved({.name = "probe", .sha256 = sha256_of_file(other)}) ==
        "b.outrider.so 0.1.0");
  store.add("c.outrider.so", "probe", "0.2.0");
  CHECK(store.resolved({.name = "probe"}) == "c.outrider.so 0.2.0");
}

/// Two folders in this order, each with another file of plugin probe 0.1.0.
struct TwoFolders {
  Store first, second;
  path early = first.add("z.outrider.so", "probe", "0.1.0", "probe,early"),
       late = second.add("a.outrider.so", "probe", "0.1.0", "probe,late");

  PluginLoader loader() {
    return {{.search_path = {first.folder.path(), second.folder.path()}, .require_lock = false},
            first.registry};
  }
};

TEST_CASE("of different files of one version, the folder that is searched first decides") {
  TwoFolders folders;
  CHECK(folders.loader().resolve({.name = "probe"}).path == folders.early);
  CHECK(folders.loader().resolve({.name = "probe", .sha256 = sha256_of_file(folders.late)}).path ==
        folders.late);
  folders.second.add("b.outrider.so", "probe", "0.1.1");
  CHECK(folders.loader().resolve({.name = "probe"}).path ==
        folders.second.folder / "b.outrider.so");
}

TEST_CASE("a file that a gate refuses does not stand before one in a later folder") {
  TwoFolders folders;
  auto bytes = read_bytes(folders.early);
  edit_stamp(bytes, [](PluginStamp& stamp) { stamp.sdk_abi = 999; });
  write_bytes(folders.early, bytes);
  CHECK(folders.loader().resolve({.name = "probe"}).path == folders.late);
}

TEST_CASE("equal bytes in two places are one plugin") {
  Store store;
  store.add("a.outrider.so", "probe", "0.1.0");
  store.add("b.outrider.so", "probe", "0.1.0");
  CHECK(store.resolved({.name = "probe"}) == "a.outrider.so 0.1.0");
}

TEST_CASE("a plugin that is not there is refused with what is installed and what would help") {
  Store store;
  store.add("a.outrider.so", "probe", "0.1.0");
  const PluginRequirement wanted{.name = "probe", .range = "^0.3"};
  const auto resolve = [&] { store.loader().resolve(wanted); };
  check_error(ErrorCode::kPluginNotFound, "no plugin 'probe' in range ^0.3 is installed", resolve);
  check_error(ErrorCode::kPluginNotFound, "installed are probe 0.1.0 (", resolve);
  check_error(ErrorCode::kPluginNotFound, "`outrider plugin add FILE`", resolve);
  check_error(ErrorCode::kPluginNotFound, store.folder.path().string(), resolve);
  check_error(ErrorCode::kInvalidArgument, "",
              [&] { store.loader().resolve({.name = "probe", .range = "newest"}); });
}

TEST_CASE("an unusable file is no candidate, but the reason when nothing else is there") {
  Store store;
  store.add("a.outrider.so", "probe", "0.1.0");
  const auto newer = store.add("b.outrider.so", "probe", "0.2.0");
  auto bytes = read_bytes(newer);
  edit_stamp(bytes, [](PluginStamp& stamp) { stamp.sdk_abi = 999; });
  write_bytes(newer, bytes);
  CHECK(store.resolved({.name = "probe"}) == "a.outrider.so 0.1.0");
  check_error(ErrorCode::kPluginIncompatible, "SDK ABI 999",
              [&] { store.loader().resolve({.name = "probe", .range = "^0.2"}); });
}

TEST_CASE("a file without a readable stamp is the reason for its name") {
  Store store;
  write_bytes(store.folder / "probe.outrider.so", as_bytes("text"));
  check_error(ErrorCode::kPluginNotElf, "probe.outrider.so: not a shared library",
              [&] { store.loader().resolve({.name = "probe"}); });
  check_error(ErrorCode::kPluginNotFound, "no plugin is",
              [&] { store.loader().resolve({.name = "other"}); });
}

TEST_CASE("the listing tells usable files from others and runs no code") {
  unsetenv("OUTRIDER_PROBE_RAN");
  Store store;
  store.add("b.outrider.so", "probe", "0.1.0");
  write_bytes(store.folder / "a.outrider.so", as_bytes("text"));
  write_bytes(store.folder / "readme.txt", as_bytes("text"));
  const auto listings = store.loader().list();
  REQUIRE(listings.size() == 2);
  CHECK(listings[0].path == store.folder / "a.outrider.so");
  CHECK_FALSE(listings[0].info.has_value());
  CHECK(listings[0].problem_code == ErrorCode::kPluginNotElf);
  CHECK(listings[1].is_usable());
  CHECK(listings[1].info->name == "probe");
  CHECK(std::getenv("OUTRIDER_PROBE_RAN") == nullptr);
}

TEST_CASE("a mode that two plugins claim is ambiguous") {
  Store store;
  store.add("a.outrider.so", "first", "0.1.0");
  store.add("b.outrider.so", "second", "0.1.0");
  check_error(ErrorCode::kPluginAmbiguous, "'probe' is provided by several plugins: first 0.1.0",
              [&] { store.loader().load_mode("probe"); });
}

TEST_CASE("an unknown mode is refused with the nearest names of all installed plugins") {
  Store store;
  check_error(ErrorCode::kUnknownMode, "unknown mode 'prob': no plugin is installed",
              [&] { store.loader().load_mode("prob"); });
  store.add("a.outrider.so", "first", "0.1.0", "eagle");
  store.add("b.outrider.so", "second", "0.1.0", "medusa,probe");
  check_error(ErrorCode::kUnknownMode, "unknown mode 'eagel': did you mean 'eagle'?",
              [&] { store.loader().load_mode("eagel"); });
  check_error(ErrorCode::kUnknownMode, "known are: eagle, medusa, probe",
              [&] { store.loader().load_mode("autoregressive"); });
}

TEST_CASE("a mode of an unusable plugin is refused with the reason") {
  Store store;
  store.add("a.outrider.so", "first", "0.1.0", "eagle");
  check_error(ErrorCode::kPluginHashMismatch, "plugins.lock.json of its folder does not list it",
              [&] { store.loader(/*require_lock=*/true).load_mode("eagle"); });
}

TEST_CASE("folders are searched in order, and only whole paths are accepted") {
  ScopedVariable data("XDG_DATA_HOME", "/home/user/data"),
      places("OUTRIDER_PLUGIN_PATH", "/b:/c/../d");
  const auto policy = PluginPolicy::standard({"/a", "/b"});
  REQUIRE(policy.search_path.size() == 5);
  CHECK(policy.search_path[0] == "/a");
  CHECK(policy.search_path[1] == "/b");
  CHECK(policy.search_path[2] == "/d");
  CHECK(policy.search_path[3] == "/home/user/data/outrider/plugins/" + std::to_string(kSdkAbi) +
                                     "-torch2.11.0/linux_x86_64_gnu");
  CHECK(policy.search_path[4].string().ends_with("lib/outrider/plugins"));
  CHECK(policy.require_lock);
  check_error(ErrorCode::kInvalidArgument, "--plugin-dir: 'plugins' is no absolute path",
              [] { PluginPolicy::standard({"plugins"}); });
  ScopedVariable empty_element("OUTRIDER_PLUGIN_PATH", "/b:");
  check_error(ErrorCode::kInvalidArgument, "OUTRIDER_PLUGIN_PATH: an empty element",
              [] { PluginPolicy::standard(); });
}

}  // namespace
}  // namespace outrider
