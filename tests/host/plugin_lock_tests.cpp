#include <doctest/doctest.h>
#include <sys/stat.h>

#include "outrider/files/json_file.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/host/sha256.h"
#include "outrider/text.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;

const std::string kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

void check_malformed(const std::string& content, const std::string& part) {
  PrivateFolder folder;
  write_bytes(folder / PluginLock::kFileName, as_bytes(content));
  check_error(ErrorCode::kInvalidFile, part, [&] { PluginLock::read(folder.path()); });
}

TEST_CASE("SHA-256 equals the standard's example for text and file") {
  CHECK(sha256_of("abc") == kAbc);
  CHECK(sha256_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  PrivateFolder folder;
  write_bytes(folder / "abc", as_bytes("abc"));
  CHECK(sha256_of_file(folder / "abc") == kAbc);
  write_bytes(folder / "long", Bytes(3'000'001, std::byte{'x'}));
  CHECK(sha256_of_file(folder / "long") == sha256_of(std::string(3'000'001, 'x')));
}

TEST_CASE("hashing a file that cannot be read names it") {
  PrivateFolder folder;
  check_error(ErrorCode::kFileNotFound, "none: cannot be opened",
              [&] { sha256_of_file(folder / "none"); });
  check_error(ErrorCode::kFileUnreadable, folder.path().string(),
              [&] { sha256_of_file(folder.path()); });
}

TEST_CASE("a lock comes back as it was written") {
  PrivateFolder folder;
  PluginLock lock;
  lock.entries = {{"eagle.outrider.so", "eagle", "0.1.0", kAbc},
                  {"medusa.outrider.so", "medusa", "1.0.0-rc.1", sha256_of("")}};
  lock.write(folder.path());
  const auto read = PluginLock::read(folder.path());
  REQUIRE(read.entries.size() == 2);
  const auto* entry = read.find("medusa.outrider.so");
  REQUIRE(entry != nullptr);
  CHECK(entry->name == "medusa");
  CHECK(entry->version == "1.0.0-rc.1");
  CHECK(entry->sha256 == sha256_of(""));
  CHECK(read.find("hydra.outrider.so") == nullptr);
}

TEST_CASE("a folder without a lock has an empty one") {
  PrivateFolder folder;
  CHECK(PluginLock::read(folder.path()).entries.empty());
}

TEST_CASE("malformed locks are refused with the place") {
  check_malformed("{", "plugins.lock.json");
  check_malformed("[]", "format_version is not 1");
  check_malformed(R"({"format_version": 2, "plugins": []})", "format_version is not 1");
  check_malformed(R"({"format_version": 1})", "no list 'plugins'");
  check_malformed(R"({"format_version": 1, "plugins": [7]})", "/plugins/0/file is missing");
  check_malformed(
      R"({"format_version": 1, "plugins": [{"file": "a", "name": "a", "version": 1, "sha256": ""}]})",
      "/plugins/0/version is missing or no string");
  check_malformed(
      R"({"format_version": 1,
          "plugins": [{"file": "a", "name": "a", "version": "1.0.0", "sha256": "ABC"}]})",
      "/plugins/0/sha256 is no SHA-256");
  for (const char* file : {"", "../a", "/a", "b/a"}) {
    check_malformed(R"({"format_version": 1, "plugins": [{"file": ")" + std::string(file) +
                        R"(", "name": "a", "version": "1.0.0", "sha256": ""}]})",
                    "/plugins/0/file is no name of a file in its folder");
  }
}

TEST_CASE("a lock over a folder lists its plugins by file name") {
  PrivateFolder folder;
  const auto probe = read_bytes(built_plugin("probe"));
  write_bytes(folder / "z.outrider.so", probe);
  write_bytes(folder / "a.outrider.so", renamed(probe, "other", "2.0.0"));
  write_bytes(folder / "notes.txt", as_bytes("no plugin"));
  const auto lock = PluginLock::of_folder(folder.path());
  REQUIRE(lock.entries.size() == 2);
  CHECK(lock.entries[0].file == "a.outrider.so");
  CHECK(lock.entries[0].name == "other");
  CHECK(lock.entries[0].version == "2.0.0");
  CHECK(lock.entries[1].file == "z.outrider.so");
  CHECK(lock.entries[1].sha256 == sha256_of_file(built_plugin("probe")));
}

TEST_CASE("a lock can be changed by its owner alone, whatever the umask") {
  using std::filesystem::perms;
  PrivateFolder folder;
  for (const mode_t mask : {0, 0002, 0077}) {
    const auto before = ::umask(mask);
    PluginLock().write(folder.path());
    ::umask(before);
    CHECK(std::filesystem::status(folder / PluginLock::kFileName).permissions() == perms{0644});
  }
}

TEST_CASE("a lock holds names in UTF-8 only") {
  PrivateFolder folder;
  PluginLock lock{.entries = {{"a\xff.outrider.so", "a", "1.0.0", std::string(64, '0')}}};
  check_error(ErrorCode::kInvalidArgument, "a\\xff.outrider.so': a lock file cannot hold a name",
              [&] { lock.write(folder.path()); });
  CHECK_FALSE(std::filesystem::exists(folder / PluginLock::kFileName));
}

TEST_CASE("a lock is not written over a file that is no plugin") {
  PrivateFolder folder;
  write_bytes(folder / "text.outrider.so", as_bytes("no plugin"));
  check_error(ErrorCode::kPluginNotElf, "text.outrider.so",
              [&] { PluginLock::of_folder(folder.path()); });
}

}  // namespace
}  // namespace outrider
