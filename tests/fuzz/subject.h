#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace outrider::fuzz {

/// A reader of foreign bytes.
struct Subject {
  const char* name;
  /// Inputs that it reads; every other input is made from these.
  std::vector<std::string> (*seeds)();
  /// Reads or throws an Error, whatever the bytes; a crash or another exception is a finding.
  void (*read)(const std::string& bytes);
  /// Bytes and words that matter to it.
  std::string_view alphabet;
};

extern const Subject kConfigSchema, kMetadata, kPickle, kPluginFile, kPluginLock, kRopeConfig,
    kSafetensors, kTorchFile, kVersion;

/// Every subject, by name.
std::span<const Subject* const> subjects();

/// Reads. False if the input was refused, with a message that is fit for a terminal and a code that
/// is no defect of Outrider's; anything else throws std::logic_error.
bool is_read(const Subject& subject, const std::string& bytes);

/// Throws std::logic_error: a promise of the reader's that does not hold.
void require(bool holds, const char* promise);

}  // namespace outrider::fuzz
