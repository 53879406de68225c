#include "outrider/checkpoint/safetensors.h"
#include "outrider/checkpoint/torch_file.h"
#include "outrider/files/git_lfs.h"
#include "outrider/files/json_file.h"
#include "support.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;
using test::check_error;
using test::put;
using test::TemporaryFolder;

const std::string kPointer =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 268435456\n";

TEST_CASE("a pointer in place of a file is named by every reader") {
  const TemporaryFolder folder;
  put(folder / "weights", kPointer);
  const std::string what = "/weights' is a Git LFS pointer";
  check_error(ErrorCode::kInvalidFile, what, [&] { read_json_file(folder / "weights"); });
  check_error(ErrorCode::kInvalidFile, what, [&] { SafetensorsFile::open(folder / "weights"); });
  check_error(ErrorCode::kInvalidFile, what, [&] { TorchFile::open(folder / "weights"); });
  CHECK(std::string(kFetchFromGitLfs).find("git lfs pull") != std::string::npos);
}

TEST_CASE("pointers of a folder are found by what they hold") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "below");
  put(folder / "below/c.bin", kPointer);
  put(folder / "a.safetensors", kPointer);
  put(folder / "b.json", kPointer);
  put(folder / "long.txt", kPointer + std::string(1024, ' '));
  put(folder / "other.txt", "version https://git-lfs");
  put(folder / "empty", "");
  CHECK(git_lfs_pointers(folder.path()) == std::set<std::string>{"a.safetensors", "b.json"});
  CHECK(git_lfs_pointers(folder / "nowhere").empty());
}

}  // namespace
}  // namespace outrider
