// The subject that OUTRIDER_FUZZ names, for libFuzzer. With --seeds FOLDER as its only arguments it
// writes the subject's seeds instead.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string_view>

#include "subject.h"

namespace {

using outrider::fuzz::Subject;
using outrider::fuzz::subjects;

const Subject* chosen = nullptr;

const Subject* find_subject() {
  const char* name = std::getenv("OUTRIDER_FUZZ");
  const auto all = subjects();
  const auto is_named = [&](const Subject* subject) {
    return name != nullptr && std::string_view(name) == subject->name;
  };
  const auto found = std::find_if(all.begin(), all.end(), is_named);
  if (found != all.end()) return *found;
  std::fputs("OUTRIDER_FUZZ must be one of:", stderr);
  for (const auto* subject : all) std::fprintf(stderr, " %s", subject->name);
  std::fputs("\n", stderr);
  std::exit(2);
}

[[noreturn]] void write_seeds(const std::string& folder) {
  size_t count = 0;
  for (const auto& seed : chosen->seeds()) {
    std::ofstream file(folder + "/seed_" + std::to_string(count++), std::ios::binary);
    if (!(file << seed).flush()) std::exit(1);
  }
  std::exit(0);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  chosen = find_subject();
  if (*count == 3 && std::string_view((*arguments)[1]) == "--seeds") write_seeds((*arguments)[2]);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  outrider::fuzz::is_read(*chosen, std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
