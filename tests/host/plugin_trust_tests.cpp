#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "outrider/host/plugin_file.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/host/sha256.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;
using std::filesystem::path;
using std::filesystem::perms;

path copy_probe(const path& folder) {
  const auto copy = folder / "probe.outrider.so";
  write_bytes(copy, read_bytes(built_plugin("probe")));
  return copy;
}

/// Whatever the umask.
path make_folder(const path& folder) {
  std::filesystem::create_directory(folder);
  std::filesystem::permissions(folder, perms{0755});
  return folder;
}

void check_untrusted(const path& file, const std::string& part) {
  check_error(ErrorCode::kPluginUntrusted, part, [&] { PluginFile::open(file); });
}

TEST_CASE("a plugin in a private folder below the sticky temporary folder is trusted") {
  PrivateFolder folder;
  const auto copy = copy_probe(folder.path());
  const auto file = PluginFile::open(copy);
  file.check();
  CHECK(file.info().name == "probe");
  CHECK(file.info().version == SemVer::parse("0.1.0"));
  CHECK(file.info().modes == std::vector<std::string>{"probe"});
  CHECK(file.info().sha256 == sha256_of_file(copy));
  CHECK(file.info().torch_build == "2.11.0");
  CHECK(sha256_of_file(file.descriptor_path()) == file.info().sha256);
}

TEST_CASE("a file that others can write to is not trusted") {
  PrivateFolder folder;
  const auto copy = copy_probe(folder.path());
  std::filesystem::permissions(copy, perms{0664});
  check_untrusted(copy, "probe.outrider.so can be written to by its group");
  std::filesystem::permissions(copy, perms{0646});
  check_untrusted(copy, "probe.outrider.so can be written to by everyone");
}

TEST_CASE("a folder above the file that others can write to is not trusted") {
  PrivateFolder folder;
  const auto copy = copy_probe(make_folder(make_folder(folder / "shared") / "own"));
  std::filesystem::permissions(folder / "shared", perms{0775});
  check_untrusted(copy, "/shared can be written to by its group");
  std::filesystem::permissions(folder / "shared", perms{0777});
  check_untrusted(copy, "/shared can be written to by everyone");
  std::filesystem::permissions(folder / "shared", perms{0755});
  CHECK_NOTHROW(PluginFile::open(copy));
}

TEST_CASE("a plugin below a checkpoint or data folder is not trusted") {
  for (const std::vector<std::string>& files : {std::vector<std::string>{"outrider_state.json"},
                                                {"modelopt_state.pth"},
                                                {"shards.json"},
                                                {"config.json", "model.safetensors"},
                                                {"config.json", "model-00001-of-00002.safetensors"},
                                                {"config.json", "pytorch_model.bin"}}) {
    PrivateFolder folder;
    const auto copy = copy_probe(make_folder(make_folder(folder / "model") / "plugins"));
    CHECK_NOTHROW(PluginFile::open(copy));
    for (const auto& file : files) write_bytes(folder / "model" / file, {});
    std::string held = files.front();
    if (files.size() > 1) held += " and " + files.back();
    check_untrusted(
        copy, (folder / "model").string() + " is a checkpoint or data folder: it holds " + held);
    check_untrusted(copy, "move it to another folder and run `outrider plugin add FILE`");
  }
}

TEST_CASE("files of a checkpoint count as what they are called, also as links to elsewhere") {
  PrivateFolder folder;
  const auto copy = copy_probe(folder.path());
  std::filesystem::create_symlink("nowhere", folder / "config.json");
  std::filesystem::create_symlink("nowhere", folder / "model.safetensors");
  check_untrusted(copy, "it holds config.json and model.safetensors");
}

TEST_CASE("a config.json of something else, or weights alone, make no checkpoint") {
  PrivateFolder folder;
  const auto copy = copy_probe(folder.path());
  write_bytes(folder / "config.json", as_bytes("{}"));
  write_bytes(folder / "data.bin", {});
  CHECK_NOTHROW(PluginFile::open(copy));
  std::filesystem::remove(folder / "config.json");
  write_bytes(folder / "model.safetensors", {});
  CHECK_NOTHROW(PluginFile::open(copy));
}

TEST_CASE("files that anybody could put into a sticky shared folder say nothing") {
  if (geteuid() != 0) return;  // the folder must be root's
  PrivateFolder folder;
  const auto copy = copy_probe(make_folder(folder / "own"));
  write_bytes(folder / "shards.json", {});
  check_untrusted(copy, "it holds shards.json");
  REQUIRE(chmod(folder.path().c_str(), 01777) == 0);
  CHECK_NOTHROW(PluginFile::open(copy));
}

TEST_CASE("all reasons for distrust come at once") {
  PrivateFolder folder;
  const auto copy = copy_probe(folder.path());
  std::filesystem::permissions(copy, perms{0666});
  std::filesystem::permissions(folder.path(), perms{0770});
  check_untrusted(copy,
                  "by everyone; " + folder.path().string() + " can be written to by its group");
}

TEST_CASE("a symbolic link is not followed to a plugin, but in the folders above it") {
  PrivateFolder folder;
  const auto copy = copy_probe(make_folder(folder / "real"));
  std::filesystem::create_symlink(copy, folder / "link.outrider.so");
  check_untrusted(folder / "link.outrider.so", "it is a symbolic link");
  std::filesystem::create_directory_symlink(folder / "real", folder / "alias");
  CHECK_NOTHROW(PluginFile::open(folder / "alias" / "probe.outrider.so"));
  std::filesystem::permissions(folder / "real", perms{0777});
  check_untrusted(folder / "alias" / "probe.outrider.so", "/real can be written to by everyone");
}

TEST_CASE("what is no regular file is not trusted, and a pipe does not block") {
  PrivateFolder folder;
  make_folder(folder / "folder.outrider.so");
  check_untrusted(folder / "folder.outrider.so", "it is no regular file");
  const auto pipe = folder / "pipe.outrider.so";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  check_untrusted(pipe, "it is no regular file");
}

TEST_CASE("another user's file is not trusted") {
  if (geteuid() != 0) return;  // only root can give a file away
  PrivateFolder folder;
  const auto copy = copy_probe(folder.path());
  REQUIRE(chown(copy.c_str(), 12345, 0) == 0);
  check_untrusted(copy, "belongs to user 12345");
}

TEST_CASE("a missing plugin file or folder is named") {
  PrivateFolder folder;
  check_error(ErrorCode::kPluginNotFound, "none.outrider.so: No such file",
              [&] { PluginFile::open(folder / "none.outrider.so"); });
  check_error(ErrorCode::kPluginNotFound, "none/x.outrider.so: No such file",
              [&] { PluginFile::open(folder / "none" / "x.outrider.so"); });
}

TEST_CASE("a file over 1 GiB is not read") {
  PrivateFolder folder;
  const auto copy = copy_probe(folder.path());
  std::filesystem::resize_file(copy, (1ull << 30) + 1);
  check_untrusted(copy, "it has 1073741825 bytes");
}

}  // namespace
}  // namespace outrider
