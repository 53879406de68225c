#include "mutation.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace outrider::fuzz {
namespace {

void overwrite_integer(std::string& bytes, size_t at, std::mt19937& random) {
  constexpr uint64_t kEdges[] = {0, 1, 0x7f, 0xffff, 0x7fff'ffff, 0xffff'fff0, 1ull << 63, ~0ull};
  const uint64_t value = kEdges[random() % std::size(kEdges)];
  const size_t width = size_t{1} << random() % 4;
  std::memcpy(bytes.data() + at, &value, std::min(width, bytes.size() - at));
}

void change_once(std::string& bytes, std::string_view alphabet, std::mt19937& random) {
  const size_t at = random() % bytes.size();
  const size_t length = std::min<size_t>(1 + random() % 16, bytes.size() - at);
  switch (random() % 5) {
    case 0:
      bytes[at] = static_cast<char>(random());
      break;
    case 1:
      bytes.erase(at, length);
      break;
    case 2:
      bytes.insert(random() % bytes.size(), bytes.substr(at, length));
      break;
    case 3:
      overwrite_integer(bytes, at, random);
      break;
    default:
      bytes[at] = alphabet[random() % alphabet.size()];
  }
}

}  // namespace

std::string mutated(std::string bytes, std::string_view alphabet, std::mt19937& random) {
  const size_t changes = 1 + random() % 4;
  for (size_t i = 0; i < changes && !bytes.empty(); ++i) change_once(bytes, alphabet, random);
  return bytes;
}

}  // namespace outrider::fuzz
