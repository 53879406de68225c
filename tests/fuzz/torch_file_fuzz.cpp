#include <cstddef>
#include <cstdint>
#include <string>

#include "outrider/checkpoint/torch_file.h"
#include "outrider/error.h"

/// Foreign bytes are read or refused with an Error; everything else is a finding.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  try {
    outrider::TorchFile::from_bytes(std::move(bytes), "fuzzed")->contents().dump();
  } catch (const outrider::Error&) {
  }
  return 0;
}
