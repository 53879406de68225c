#include "outrider/error.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace outrider {
namespace {

constexpr std::pair<ErrorCode, std::string_view> kNames[] = {
    {ErrorCode::kInvalidArgument, "InvalidArgument"},
    {ErrorCode::kInvalidConfig, "InvalidConfig"},
    {ErrorCode::kUnknownMode, "UnknownMode"},
    {ErrorCode::kUnknownPreset, "UnknownPreset"},
    {ErrorCode::kUnknownFormat, "UnknownFormat"},
    {ErrorCode::kFileNotFound, "FileNotFound"},
    {ErrorCode::kFileUnreadable, "FileUnreadable"},
    {ErrorCode::kInvalidFile, "InvalidFile"},
    {ErrorCode::kFileExists, "FileExists"},
    {ErrorCode::kWriteFailed, "WriteFailed"},
    {ErrorCode::kUnsafeFile, "UnsafeFile"},
    {ErrorCode::kUnknownArchitecture, "UnknownArchitecture"},
    {ErrorCode::kUnsupported, "Unsupported"},
    {ErrorCode::kTensorMismatch, "TensorMismatch"},
    {ErrorCode::kAlreadyConverted, "AlreadyConverted"},
    {ErrorCode::kNotConverted, "NotConverted"},
    {ErrorCode::kIncompatibleCheckpoint, "IncompatibleCheckpoint"},
    {ErrorCode::kNonFinite, "NonFinite"},
    {ErrorCode::kInvalidData, "InvalidData"},
    {ErrorCode::kPluginNotFound, "PluginNotFound"},
    {ErrorCode::kPluginAmbiguous, "PluginAmbiguous"},
    {ErrorCode::kPluginUntrusted, "PluginUntrusted"},
    {ErrorCode::kPluginHashMismatch, "PluginHashMismatch"},
    {ErrorCode::kPluginNotElf, "PluginNotElf"},
    {ErrorCode::kPluginNoStamp, "PluginNoStamp"},
    {ErrorCode::kPluginBadStamp, "PluginBadStamp"},
    {ErrorCode::kPluginIncompatible, "PluginIncompatible"},
    {ErrorCode::kPluginBadDependency, "PluginBadDependency"},
    {ErrorCode::kPluginLinkFailed, "PluginLinkFailed"},
    {ErrorCode::kPluginNoEntry, "PluginNoEntry"},
    {ErrorCode::kPluginRegisterFailed, "PluginRegisterFailed"},
    {ErrorCode::kPluginConflict, "PluginConflict"},
    {ErrorCode::kPluginCheckFailed, "PluginCheckFailed"},
    {ErrorCode::kDeviceUnavailable, "DeviceUnavailable"},
    {ErrorCode::kToolMissing, "ToolMissing"},
    {ErrorCode::kProcessLost, "ProcessLost"},
    {ErrorCode::kInterrupted, "Interrupted"},
    {ErrorCode::kInternal, "Internal"},
};

}  // namespace

std::string_view error_code_name(ErrorCode code) {
  const auto* found = std::find_if(std::begin(kNames), std::end(kNames),
                                   [code](const auto& entry) { return entry.first == code; });
  return found == std::end(kNames) ? std::string_view("Unknown") : found->second;
}

int exit_status(ErrorCode code) {
  switch (static_cast<int>(code) / 100) {
    case 1:
      return 2;
    case 2:
      return 3;
    case 3:
      return 4;
    case 4:
      return 5;
    case 5:
      return 6;
    case 6:
      return 130;
    default:
      return 70;
  }
}

Error::Error(ErrorCode code, const std::string& message, std::string hint)
    : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}

Error::~Error() = default;

}  // namespace outrider
