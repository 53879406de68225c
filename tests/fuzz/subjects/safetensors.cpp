#include "outrider/checkpoint/safetensors.h"

#include <cstdint>
#include <cstring>

#include "scratch_file.h"
#include "subject.h"

namespace outrider::fuzz {
namespace {

std::string with_length(std::string header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + std::string(data_bytes, 'x');
}

std::vector<std::string> safetensors_seeds() {
  return {with_length(R"({"__metadata__":{"format":"pt"},)"
                      R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                      R"("b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}}  )",
                      26),
          with_length(R"({"e":{"dtype":"I64","shape":[0,7],"data_offsets":[0,0]}})", 0),
          with_length("{}", 0)};
}

/// Every byte of every tensor can be read, and each belongs to one.
void read_safetensors(const std::string& bytes) {
  const auto file =
      SafetensorsFile::open(folder_with("fuzzed.safetensors", bytes) / "fuzzed.safetensors");
  size_t total = 0;
  unsigned sum = 0;
  for (const auto& [name, view] : file->tensors()) {
    total += view.bytes.size();
    for (const auto byte : view.bytes) sum += static_cast<unsigned>(byte);
  }
  require(total + sizeof(uint64_t) <= bytes.size(), "tensors lie in the file");
  require(sum <= total * 0xff, "bytes are bytes");
}

}  // namespace

const Subject kSafetensors{"safetensors", safetensors_seeds, read_safetensors,
                           "{}[]\",:0123456789-eFIBOOL\\ "};

}  // namespace outrider::fuzz
