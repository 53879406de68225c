#include <doctest/doctest.h>

#include "outrider/problems.h"

namespace outrider::problems_tests {

std::string thrown_by(const Problems& problems, size_t limit) {
  try {
    problems.throw_in_lines(ErrorCode::kInvalidData, "subject", "hint", limit);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kInvalidData);
    CHECK(error.hint() == "hint");
    return error.what();
  }
  return "";
}

TEST_CASE("problems are told together, or not at all") {
  Problems problems;
  CHECK(thrown_by(problems, 2) == "");
  problems.add_when(false, "never");
  CHECK(problems.empty());
  problems.add("one");
  problems.add_when(true, "two");
  CHECK(thrown_by(problems, 2) == "subject:\n  one\n  two");
  problems.add_all({"three", "four"});
  CHECK(problems.all().size() == 4);
  CHECK(thrown_by(problems, 2) == "subject:\n  one\n  two\n  and 2 more");
  CHECK_THROWS_WITH_AS(problems.throw_in_a_line(ErrorCode::kInvalidData, "subject"),
                       "subject: one; two; three; four", Error);
}

}  // namespace outrider::problems_tests
