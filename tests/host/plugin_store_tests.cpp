#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>
#include <set>
#include <thread>

#include "outrider/host/plugin_loader.h"
#include "outrider/host/plugin_store.h"
#include "outrider/host/plugin_verification.h"
#include "outrider/host/sha256.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;
using std::filesystem::path;
using std::filesystem::perms;

/// A store that does not exist yet, and a folder with plugins to add to it.
struct Scene {
  PrivateFolder folder;
  PluginStore store{folder / "data/outrider/plugins"};

  /// The probe as another plugin, with `filler` of its own bytes: other bytes, same name.
  path make(const std::string& name, const std::string& version, const std::string& archs = "") {
    auto bytes = renamed(read_bytes(built_plugin("probe")), name, version);
    edit_stamp(bytes, [&](PluginStamp& stamp) { set_text(stamp.cuda_archs, archs); });
    const auto file = folder / (name + version + archs + ".so");
    write_bytes(file, bytes);
    return file;
  }
  PluginInfo add(const path& file, const PluginStore::AddOptions& options = {}) {
    return store.add(file, options).plugin;
  }
  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(store.folder())) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  std::vector<PluginListing> verified() const {
    return verify_plugins({.search_path = {store.folder()}, .require_lock = true});
  }
  /// What the loader can use: "name version".
  std::vector<std::string> usable() const {
    std::vector<std::string> names;
    for (const auto& listing : verified()) {
      if (!listing.is_usable()) continue;
      names.push_back(listing.info->name + " " + listing.info->version.to_string());
    }
    return names;
  }
};

using Names = std::vector<std::string>;

perms permissions_of(const path& file) { return std::filesystem::status(file).permissions(); }

TEST_CASE("an added plugin lies in the store under its name, version and hash, and can be used") {
  Scene scene;
  const auto file = scene.make("tidy", "1.2.3");
  const auto added = scene.store.add(file, {});
  const auto hash = sha256_of_file(file);
  const auto name = "tidy-1.2.3-" + hash.substr(0, 12) + ".outrider.so";
  CHECK(added.is_new);
  CHECK(added.replaced.empty());
  CHECK(added.plugin.path == scene.store.folder() / name);
  CHECK(added.plugin.sha256 == hash);
  CHECK((read_bytes(added.plugin.path) == read_bytes(file)));
  CHECK(scene.files() == std::set<std::string>{".lock", name, PluginLock::kFileName});
  const auto lock = PluginLock::read(scene.store.folder());
  REQUIRE(lock.entries.size() == 1);
  CHECK(lock.entries[0].file == name);
  CHECK(lock.entries[0].name == "tidy");
  CHECK(lock.entries[0].version == "1.2.3");
  CHECK(lock.entries[0].sha256 == hash);
  CHECK(scene.usable() == Names{"tidy 1.2.3"});
}

TEST_CASE("what the store writes is open to its owner's changes alone, whatever the umask") {
  Scene scene;
  const auto file = scene.make("tidy", "1.0.0");
  const auto before = ::umask(0002);
  const auto plugin = scene.add(file);
  ::umask(before);
  CHECK(permissions_of(plugin.path) == perms{0644});
  CHECK(permissions_of(scene.store.folder()) == perms{0755});
  CHECK(permissions_of(scene.folder / "data") == perms{0755});
  CHECK(scene.usable() == Names{"tidy 1.0.0"});
}

TEST_CASE("adding the same file again changes nothing") {
  Scene scene;
  const auto file = scene.make("tidy", "1.0.0");
  scene.add(file);
  const auto lock = read_bytes(scene.store.folder() / PluginLock::kFileName);
  const auto again = scene.store.add(file, {});
  CHECK_FALSE(again.is_new);
  CHECK((read_bytes(scene.store.folder() / PluginLock::kFileName) == lock));
  CHECK(scene.usable() == Names{"tidy 1.0.0"});
}

TEST_CASE("versions lie side by side, and the highest in range is found") {
  Scene scene;
  for (const char* version : {"1.0.0", "1.10.0", "1.9.0", "2.0.0-rc.1"}) {
    scene.add(scene.make("tidy", version));
  }
  SpeculativeDecodingModeRegistry registry;
  PluginLoader loader({.search_path = {scene.store.folder()}, .require_lock = true}, registry);
  CHECK(loader.resolve({.name = "tidy", .range = "^1"}).version.to_string() == "1.10.0");
  CHECK(loader.resolve({.name = "tidy", .range = "~1.9"}).version.to_string() == "1.9.0");
  CHECK(scene.usable().size() == 4);
}

TEST_CASE("another file of the same name and version is refused, or replaces the first") {
  Scene scene;
  const auto first = scene.add(scene.make("tidy", "1.0.0", "80"));
  const auto other = scene.make("tidy", "1.0.0", "90");
  const auto add = [&] { scene.add(other); };
  check_error(ErrorCode::kPluginConflict, first.sha256, add);
  check_error(ErrorCode::kPluginConflict, sha256_of_file(other), add);
  check_error(ErrorCode::kPluginConflict, "--replace", add);
  CHECK(scene.verified().front().info->cuda_archs == "80");

  const auto added = scene.store.add(other, {.replace = true, .sha256 = {}});
  CHECK(added.is_new);
  REQUIRE(added.replaced.size() == 1);
  CHECK(added.replaced[0].sha256 == first.sha256);
  CHECK_FALSE(std::filesystem::exists(first.path));
  REQUIRE(scene.usable() == Names{"tidy 1.0.0"});
  CHECK(scene.verified().front().info->cuda_archs == "90");
}

TEST_CASE("a file that was changed in the store is given its bytes back") {
  Scene scene;
  const auto file = scene.make("tidy", "1.0.0");
  const auto plugin = scene.add(file);
  write_bytes(plugin.path, as_bytes("no plugin"));
  CHECK(scene.usable().empty());
  CHECK(scene.store.add(file, {}).is_new);
  CHECK((read_bytes(plugin.path) == read_bytes(file)));
  std::filesystem::permissions(plugin.path, perms{0666});
  CHECK(scene.usable().empty());
  scene.add(file);
  CHECK(scene.usable() == Names{"tidy 1.0.0"});
}

TEST_CASE("what a killed process leaves is not trusted, and the next one cleans up") {
  Scene scene;
  const auto file = scene.make("tidy", "1.0.0");
  const auto plugin = scene.add(file);
  std::filesystem::remove(scene.store.folder() / PluginLock::kFileName);
  write_bytes(scene.store.folder() / ".tidy-1.0.0-ab.outrider.so.tmp-7-00000000", as_bytes("half"));
  CHECK(scene.usable().empty());
  CHECK(scene.store.add(file, {}).is_new);
  CHECK(scene.usable() == Names{"tidy 1.0.0"});
  CHECK(scene.files().size() == 3);

  // Killed between the two halves of a replacement, and of a removal.
  PluginLock{}.write(scene.store.folder());
  scene.add(scene.make("tidy", "1.0.0", "90"), {.replace = true, .sha256 = {}});
  CHECK_FALSE(std::filesystem::exists(plugin.path));
  PluginLock{}.write(scene.store.folder());
  CHECK(scene.store.remove({.name = "tidy", .version = {}}).size() == 1);
  CHECK(scene.files() == std::set<std::string>{".lock", PluginLock::kFileName});
}

TEST_CASE("adds at the same time all land") {
  Scene scene;
  std::vector<path> files;
  for (int i = 0; i < 8; ++i) files.push_back(scene.make("tidy", "1.0." + std::to_string(i)));
  std::vector<std::thread> threads;
  for (const auto& file : files) {
    threads.emplace_back([&] { PluginStore(scene.store.folder()).add(file, {}); });
  }
  for (auto& thread : threads) thread.join();
  CHECK(scene.usable().size() == files.size());
}

TEST_CASE("the given file may be anybody's to change, or a link, but not lie in a checkpoint") {
  Scene scene;
  const auto file = scene.make("tidy", "1.0.0");
  std::filesystem::permissions(file, perms{0666});
  std::filesystem::create_symlink(file, scene.folder / "link");
  CHECK(scene.add(scene.folder / "link").name == "tidy");
  write_bytes(scene.folder / "outrider_state.json", {});
  check_error(ErrorCode::kPluginUntrusted,
              scene.folder.path().string() + " is a checkpoint or data folder",
              [&] { PluginStore("/nowhere/store").add(file, {}); });
}

TEST_CASE("a file that a gate refuses does not reach the store") {
  Scene scene;
  const auto check_refused = [&](ErrorCode code, const std::string& part, const path& file) {
    check_error(code, part, [&] { scene.add(file); });
    CHECK_FALSE(std::filesystem::exists(scene.store.folder()));
  };
  check_refused(ErrorCode::kPluginNotFound, "none.so: No such file", scene.folder / "none.so");
  check_refused(ErrorCode::kPluginUntrusted, "it is no regular file", scene.folder.path());
  write_bytes(scene.folder / "text.so", as_bytes("text"));
  check_refused(ErrorCode::kPluginNotElf, "text.so", scene.folder / "text.so");
  const auto file = scene.make("tidy", "1.0.0");
  auto bytes = read_bytes(file);
  edit_stamp(bytes, [](PluginStamp& stamp) { stamp.sdk_abi = 999; });
  write_bytes(file, bytes);
  check_refused(ErrorCode::kPluginIncompatible, "SDK ABI 999", file);
  bytes = read_bytes(scene.make("tidy", "1.0.0"));
  replace_text(bytes, "libstdc++.so.6", "libother.so.66");
  write_bytes(file, bytes);
  check_refused(ErrorCode::kPluginBadDependency, "libother.so.66", file);
}

TEST_CASE("only the expected file is added") {
  Scene scene;
  const auto file = scene.make("tidy", "1.0.0");
  check_error(ErrorCode::kPluginHashMismatch, "expected is " + std::string(64, '0'),
              [&] { scene.add(file, {.replace = false, .sha256 = std::string(64, '0')}); });
  scene.add(file, {.replace = false, .sha256 = sha256_of_file(file)});
  CHECK(scene.usable() == Names{"tidy 1.0.0"});
}

TEST_CASE("a store that others can write to takes nothing") {
  Scene scene;
  const auto file = scene.make("tidy", "1.0.0");
  std::filesystem::create_directory(scene.folder / "data");
  std::filesystem::permissions(scene.folder / "data", perms{0777});
  check_error(ErrorCode::kPluginUntrusted, "/data can be written to by everyone",
              [&] { scene.add(file); });
  CHECK(scene.files().empty());
}

TEST_CASE("a lock file that cannot be read stops every change") {
  Scene scene;
  const auto file = scene.make("tidy", "1.0.0");
  scene.add(file);
  write_bytes(scene.store.folder() / PluginLock::kFileName, as_bytes("{}"));
  check_error(ErrorCode::kInvalidFile, "delete it, and run `outrider plugin add FILE`",
              [&] { scene.add(file); });
  check_error(ErrorCode::kInvalidFile, "format_version",
              [&] { scene.store.remove({.name = "tidy", .version = {}}); });
}

TEST_CASE("one version, or all of them, are removed") {
  Scene scene;
  const auto first = scene.add(scene.make("tidy", "1.0.0"));
  scene.add(scene.make("tidy", "1.1.0"));
  scene.add(scene.make("other", "3.0.0"));
  const auto remove = [&] { scene.store.remove({.name = "tidy", .version = {}}); };
  check_error(ErrorCode::kPluginAmbiguous, "several versions of plugin 'tidy': 1.0.0, 1.1.0",
              remove);
  check_error(ErrorCode::kPluginAmbiguous, "--version, or remove them all with --all", remove);
  const auto removed = scene.store.remove({.name = "tidy", .version = SemVer::parse("1.0.0")});
  REQUIRE(removed.size() == 1);
  CHECK(removed[0].file == first.path.filename().string());
  CHECK_FALSE(std::filesystem::exists(first.path));
  CHECK(scene.usable() == Names{"other 3.0.0", "tidy 1.1.0"});
  scene.add(scene.make("tidy", "1.0.0"));
  CHECK(scene.store.remove({.name = "tidy", .version = {}, .all = true}).size() == 2);
  CHECK(scene.usable() == Names{"other 3.0.0"});
}

TEST_CASE("what is not in the store cannot be removed") {
  Scene scene;
  check_error(ErrorCode::kPluginNotFound, "has no plugin 'tidy'",
              [&] { scene.store.remove({.name = "tidy", .version = {}}); });
  scene.add(scene.make("tidy", "1.0.0"));
  check_error(ErrorCode::kPluginNotFound, "did you mean 'tidy'?",
              [&] { scene.store.remove({.name = "tydy", .version = {}}); });
  const auto remove = [&] {
    scene.store.remove({.name = "tidy", .version = SemVer::parse("2.0.0")});
  };
  check_error(ErrorCode::kPluginNotFound, "has no plugin 'tidy' 2.0.0", remove);
  check_error(ErrorCode::kPluginNotFound, "it has 1.0.0", remove);
}

TEST_CASE("verifying tells what no list of files can show") {
  Scene scene;
  const auto gone = scene.add(scene.make("gone", "1.0.0"));
  scene.add(scene.make("tidy", "1.0.0"));
  std::filesystem::remove(gone.path);
  PrivateFolder elsewhere;
  write_bytes(elsewhere / "x.outrider.so", read_bytes(scene.make("tidy", "1.0.0", "90")));
  write_bytes(elsewhere / "y.outrider.so", read_bytes(scene.make("tidy", "1.0.0", "80")));
  PluginLock::of_folder(elsewhere.path()).write(elsewhere.path());
  PrivateFolder broken;
  write_bytes(broken / PluginLock::kFileName, as_bytes("{}"));
  const auto listings =
      verify_plugins({.search_path = {scene.store.folder(), elsewhere.path(), broken.path()},
                      .require_lock = false});
  REQUIRE(listings.size() == 5);
  CHECK(listings[0].is_usable());  // another folder than its rivals'
  CHECK(listings[1].problem_code == ErrorCode::kPluginAmbiguous);
  CHECK(listings[1].problem.find((elsewhere / "y.outrider.so").string()) != std::string::npos);
  CHECK(listings[2].problem_code == ErrorCode::kPluginAmbiguous);
  CHECK(listings[3].path == gone.path);
  CHECK(listings[3].problem_code == ErrorCode::kPluginNotFound);
  CHECK(listings[3].problem.find("lists it as gone 1.0.0") != std::string::npos);
  CHECK(listings[4].path == broken / PluginLock::kFileName);
  CHECK(listings[4].problem_code == ErrorCode::kInvalidFile);
}

TEST_CASE("the user's store is below XDG_DATA_HOME and searched; a relative folder is no store") {
  PrivateFolder folder;
  ScopedVariable data("XDG_DATA_HOME", folder.path().string());
  const auto store = PluginStore::of_user();
  CHECK(store.folder().string().starts_with((folder / "outrider/plugins/").string()));
  const auto searched = PluginPolicy::standard().search_path;
  CHECK(std::ranges::count(searched, store.folder()) == 1);
  check_error(ErrorCode::kInvalidArgument, "no absolute path", [] { PluginStore("plugins"); });
}

}  // namespace
}  // namespace outrider
