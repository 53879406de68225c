#include <doctest/doctest.h>

#include <fstream>

#include "tiny_training.h"
#include "trainer/run_folder.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;
using testing::failure;
using testing::TemporaryFolder;

const Json kRecord = {{"fixed_options", {{"seed", 1}}}, {"starts", Json::array()}};

TEST_CASE("the folder of a new run goes again unless it is kept") {
  const TemporaryFolder parent;
  const auto path = parent.path() / "a" / "run";
  {
    const RunFolder folder(path, /*resume=*/false);
    folder.write_record(kRecord);
    CHECK(fs::exists(path / "run.json"));
  }
  CHECK_FALSE(fs::exists(path));
  {
    RunFolder folder(path, /*resume=*/false);
    auto record = kRecord;
    record["command"] = "no UTF-8: \xff";
    folder.write_record(record);
    folder.keep();
  }
  const RunFolder again(path, /*resume=*/true);
  CHECK(again.record()->at("fixed_options") == Json({{"seed", 1}}));
  CHECK(again.record()->at("command") == "no UTF-8: \xef\xbf\xbd");
}

TEST_CASE("two processes do not train in one folder") {
  const TemporaryFolder run;
  const RunFolder first(run.path(), /*resume=*/true);
  CHECK_CONTAINS(failure(ErrorCode::kWriteFailed, [&] { RunFolder(run.path(), true); }),
                 "another process is training in this folder");
}

TEST_CASE("what killed processes left is removed, and nothing else") {
  const TemporaryFolder run;
  fs::create_directories(run.path() / ".checkpoint-3.tmp-77-00c0ffee" / "x");
  std::ofstream(run.path() / ".run.json.tmp-77-00c0ffee") << "{";
  {
    const RunFolder empty(run.path(), /*resume=*/true);  // nothing but leftovers
    CHECK_FALSE(empty.record());
  }
  std::ofstream(run.path() / ".hidden") << "mine";
  CHECK_CONTAINS(failure(ErrorCode::kInvalidArgument, [&] { RunFolder(run.path(), true); }),
                 "is no folder of a run");
  std::ofstream(run.path() / "run.json") << "{}";
  const RunFolder folder(run.path(), /*resume=*/true);
  folder.remove_leftovers();
  CHECK(fs::exists(run.path() / ".hidden"));
  CHECK(std::distance(fs::directory_iterator(run.path()), {}) == 2);
}

TEST_CASE("a damaged record is refused") {
  const TemporaryFolder run;
  const RunFolder folder(run.path(), /*resume=*/true);
  folder.write_record({{"starts", Json::array()}});
  CHECK_CONTAINS(failure(ErrorCode::kInvalidFile, [&] { folder.record(); }),
                 "'fixed_options' or 'starts' is missing");
  std::ofstream(run.path() / "run.json")
      << R"({"format_version": 2, "fixed_options": {}, "starts": []})";
  CHECK_CONTAINS(failure(ErrorCode::kIncompatibleCheckpoint, [&] { folder.record(); }),
                 "format_version 2, this program reads 1");
}

}  // namespace
}  // namespace outrider
