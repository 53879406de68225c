#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <string>

#include "outrider/error.h"
#include "outrider/sdk/testing.h"

namespace outrider::testing {

/// The message and hint of the error of this code that `action` ends in.
inline std::string failure(ErrorCode code, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string text = std::string(error.what()) + " | " + error.hint();
    CHECK_MESSAGE(error_code_name(error.code()) == error_code_name(code), text);
    return text;
  }
  FAIL_CHECK("nothing was thrown");
  return {};
}

}  // namespace outrider::testing

#define CHECK_CLOSE(actual, expected, tolerance) \
  CHECK(outrider::testing::largest_difference(actual, expected) <= (tolerance))

#define CHECK_CONTAINS(text, part) \
  CHECK_MESSAGE(std::string(text).find(part) != std::string::npos, text)
