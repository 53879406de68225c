#include "outrider/checkpoint/torch_file.h"

#include "subject.h"
#include "torch_bytes.h"

namespace outrider::fuzz {
namespace {

using namespace test;

std::vector<std::string> torch_file_seeds() {
  const auto tensor = p_tensor(p_storage("FloatStorage", "0", 8), 0, {8}, {1});
  return {torch_bytes(p_file(tensor)), torch_bytes(p_file("K\x01"))};
}

void read_torch_file(const std::string& bytes) {
  TorchFile::from_bytes(bytes, "fuzzed")->contents().dump();
}

}  // namespace

const Subject kTorchFile{"torch_file", torch_file_seeds, read_torch_file,
                         "PK\x01\x02\x03\x04\x06\x07/."};

}  // namespace outrider::fuzz
