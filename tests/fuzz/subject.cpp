#include "subject.h"

#include <array>
#include <stdexcept>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider::fuzz {
namespace {

constexpr size_t kLongestMessage = 1u << 16;

void check_message(const std::string& message) {
  require(message.size() <= kLongestMessage, "messages are short");
  require(is_utf8(message), "messages are UTF-8");
  // Lists have one line for each problem; anything else from a file is escaped.
  for (const unsigned char c : message) require(c >= ' ' || c == '\n', "messages are printable");
}

}  // namespace

std::span<const Subject* const> subjects() {
  static constexpr std::array kAll = {&kConfigSchema, &kMetadata,   &kPickle,
                                      &kPluginFile,   &kPluginLock, &kRopeConfig,
                                      &kSafetensors,  &kTorchFile,  &kVersion};
  return kAll;
}

bool is_read(const Subject& subject, const std::string& bytes) {
  try {
    subject.read(bytes);
    return true;
  } catch (const Error& error) {
    require(error.code() != ErrorCode::kInternal, "no input is a defect of Outrider's");
    check_message(error.what());
    check_message(error.hint());
    return false;
  }
}

void require(bool holds, const char* promise) {
  if (!holds) throw std::logic_error(promise);
}

}  // namespace outrider::fuzz
