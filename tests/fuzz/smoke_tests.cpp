#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <random>

#include "mutation.h"
#include "subject.h"

namespace outrider::fuzz {
namespace {

// What libFuzzer does for minutes, for a moment and without its sense of what is new.
constexpr int kInputs = 4000;

TEST_CASE("mutations of good inputs are read or refused, never more") {
  for (const auto* subject : subjects()) {
    CAPTURE(subject->name);
    const auto seeds = subject->seeds();
    std::mt19937 random(7);
    int refused = 0;
    for (int i = 0; i < kInputs; ++i) {
      const auto input = mutated(seeds[i % seeds.size()], subject->alphabet, random);
      CAPTURE(i);
      refused += is_read(*subject, input) ? 0 : 1;
    }
    CHECK(refused > kInputs / 10);
  }
}

TEST_CASE("good inputs are read") {
  for (const auto* subject : subjects()) {
    CAPTURE(subject->name);
    REQUIRE_FALSE(subject->seeds().empty());
    for (const auto& seed : subject->seeds()) CHECK_NOTHROW(subject->read(seed));
  }
}

TEST_CASE("inputs cut at any byte are read or refused") {
  for (const auto* subject : subjects()) {
    CAPTURE(subject->name);
    const auto seed = subject->seeds().front();
    for (size_t size = 0; size < seed.size(); ++size) {
      CAPTURE(size);
      CHECK_NOTHROW(is_read(*subject, seed.substr(0, size)));
    }
  }
}

}  // namespace
}  // namespace outrider::fuzz
