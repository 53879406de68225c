#include <doctest/doctest.h>

#include <string>

#include "outrider/error.h"

namespace outrider {
namespace {

TEST_CASE("an error carries its code, message and hint") {
  const Error error(ErrorCode::kFileNotFound, "no file", "look again");
  CHECK(error.code() == ErrorCode::kFileNotFound);
  CHECK(std::string(error.what()) == "no file");
  CHECK(error.hint() == "look again");
  CHECK(Error(ErrorCode::kInternal, "x").hint().empty());
}

TEST_CASE("codes have the names of their enumerators") {
  CHECK(error_code_name(ErrorCode::kInvalidArgument) == "InvalidArgument");
  CHECK(error_code_name(ErrorCode::kFileExists) == "FileExists");
  CHECK(error_code_name(ErrorCode::kNonFinite) == "NonFinite");
  CHECK(error_code_name(ErrorCode::kPluginConflict) == "PluginConflict");
  CHECK(error_code_name(ErrorCode::kToolMissing) == "ToolMissing");
  CHECK(error_code_name(ErrorCode::kInternal) == "Internal");
  CHECK(error_code_name(static_cast<ErrorCode>(1)) == "Unknown");
}

TEST_CASE("the hundreds decide the exit status") {
  CHECK(exit_status(ErrorCode::kInvalidArgument) == 2);
  CHECK(exit_status(ErrorCode::kUnknownFormat) == 2);
  CHECK(exit_status(ErrorCode::kFileNotFound) == 3);
  CHECK(exit_status(ErrorCode::kWriteFailed) == 3);
  CHECK(exit_status(ErrorCode::kUnknownArchitecture) == 4);
  CHECK(exit_status(ErrorCode::kInvalidData) == 4);
  CHECK(exit_status(ErrorCode::kPluginNotFound) == 5);
  CHECK(exit_status(ErrorCode::kPluginConflict) == 5);
  CHECK(exit_status(ErrorCode::kDeviceUnavailable) == 6);
  CHECK(exit_status(ErrorCode::kInterrupted) == 130);
  CHECK(exit_status(ErrorCode::kInternal) == 70);
}

}  // namespace
}  // namespace outrider
