#include "checkpoint/torch/pickle_reader.h"
#include "subject.h"
#include "torch_bytes.h"

namespace outrider::fuzz {
namespace {

using namespace test;

std::vector<std::string> pickle_seeds() {
  const auto tensor = p_tensor(p_storage("FloatStorage", "0", 8), 2, {2, 3}, {3, 1});
  return {
      p_file("}(" + p_text("a") + tensor + p_text("b") + p_int(7) + "u"),
      p_file("(]q" + std::string(1, '\0') + "(NK\x01" + "e" + "h" + std::string(1, '\0') + "t")};
}

/// The pickle alone: in a whole file the checksum keeps most changes from it.
void read_pickle(const std::string& bytes) {
  const std::string origin = "fuzzed";
  pickle::read(std::as_bytes(std::span(bytes)), origin).value.dump();
}

}  // namespace

const Subject kPickle{"pickle", pickle_seeds, read_pickle, "()]}tue.hqRQbcXK\x86\x8a\xff"};

}  // namespace outrider::fuzz
