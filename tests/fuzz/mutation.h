#pragma once

#include <random>
#include <string>
#include <string_view>

namespace outrider::fuzz {

/// `bytes` with one to four changes: bytes replaced, by some of `alphabet` too, cut out, repeated
/// elsewhere, or overwritten with an integer at the edge of its range.
std::string mutated(std::string bytes, std::string_view alphabet, std::mt19937& random);

}  // namespace outrider::fuzz
