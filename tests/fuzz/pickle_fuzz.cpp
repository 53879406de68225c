#include <cstddef>
#include <cstdint>
#include <string>

#include "checkpoint/pickle_reader.h"
#include "outrider/error.h"

/// The pickle alone: in a whole file the checksum keeps most mutations from it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string origin = "fuzzed";
  try {
    outrider::pickle::read(std::as_bytes(std::span(data, size)), origin).value.dump();
  } catch (const outrider::Error&) {
  }
  return 0;
}
