#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "outrider/api.h"

namespace outrider {

/// What went wrong. The hundreds are the class of the error, which decides the program's exit
/// status.
enum class ErrorCode : int {
  // The request: arguments and configs. Exit status 2.
  kInvalidArgument = 100,
  kInvalidConfig = 101,
  kUnknownMode = 102,
  kUnknownPreset = 103,
  kUnknownFormat = 104,
  // Files. Exit status 3.
  kFileNotFound = 200,
  kFileUnreadable = 201,
  kInvalidFile = 202,
  kFileExists = 203,
  kWriteFailed = 204,
  kUnsafeFile = 205,
  // Models and checkpoints. Exit status 4.
  kUnknownArchitecture = 300,
  kUnsupported = 301,
  kTensorMismatch = 302,
  kAlreadyConverted = 303,
  kNotConverted = 304,
  kIncompatibleCheckpoint = 305,
  kNonFinite = 306,
  kInvalidData = 307,
  // Plugins, in the order of the loader's gates. Exit status 5.
  kPluginNotFound = 400,
  kPluginAmbiguous = 401,
  kPluginUntrusted = 402,
  kPluginHashMismatch = 403,
  kPluginNotElf = 404,
  kPluginNoStamp = 405,
  kPluginBadStamp = 406,
  kPluginIncompatible = 407,
  kPluginBadDependency = 408,
  kPluginLinkFailed = 409,
  kPluginNoEntry = 410,
  kPluginRegisterFailed = 411,
  kPluginConflict = 412,
  kPluginCheckFailed = 413,
  // The machine. Exit status 6.
  kDeviceUnavailable = 500,
  kToolMissing = 501,
  kProcessLost = 502,
  // Stopped by a signal. Exit status 130.
  kInterrupted = 600,
  // A defect of Outrider's. Exit status 70.
  kInternal = 900,
};

/// The enumerator's name without its `k`, for example "FileNotFound".
OUTRIDER_API std::string_view error_code_name(ErrorCode code);

/// The program's exit status for an error of this code.
OUTRIDER_API int exit_status(ErrorCode code);

/// The one exception type of Outrider: what is wrong, and apart from it the next step.
class OUTRIDER_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::string hint = {});
  ~Error() override;  // out of line: one typeinfo for every library in the process

  ErrorCode code() const noexcept { return code_; }
  /// What the user can do about it; may be empty.
  const std::string& hint() const noexcept { return hint_; }

 private:
  ErrorCode code_;
  std::string hint_;
};

}  // namespace outrider
