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

// `text` is made once, before doctest looks at anything: a check within a check waits for itself.
#define CHECK_CONTAINS(text, part)                                   \
  do {                                                               \
    const std::string checked = (text);                              \
    CHECK_MESSAGE(checked.find(part) != std::string::npos, checked); \
  } while (false)
