#include <doctest/doctest.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "machine/cpu_arithmetic.h"
#include "tiny_training.h"

namespace outrider::cpu_arithmetic_tests {
namespace {

constexpr const char* kVariable = "OUTRIDER_CPU_BFLOAT16";

/// The answer about bfloat16, given for the scope.
class GivenAnswer {
 public:
  explicit GivenAnswer(const char* answer) {
    if (const char* before = std::getenv(kVariable)) before_ = before;
    setenv(kVariable, answer, /*overwrite=*/1);
  }
  ~GivenAnswer() { before_ ? setenv(kVariable, before_->c_str(), 1) : unsetenv(kVariable); }
  GivenAnswer(const GivenAnswer&) = delete;
  GivenAnswer& operator=(const GivenAnswer&) = delete;

 private:
  std::optional<std::string> before_;
};

TEST_CASE(
    "where the CPU is slow in bfloat16, float32 is computed in, for bfloat16 on the CPU alone") {
  const GivenAnswer slow("slow");
  CHECK_FALSE(has_fast_bfloat16());
  CHECK((computing_type(at::kBFloat16, at::kCPU) == at::kFloat));
  CHECK((computing_type(at::kBFloat16, at::kCUDA) == at::kBFloat16));
  for (const auto type : {at::kFloat, at::kDouble, at::kHalf}) {
    CHECK((computing_type(type, at::kCPU) == type));
  }
}

TEST_CASE("where the CPU has instructions for it, bfloat16 is computed in") {
  const GivenAnswer fast("fast");
  CHECK(has_fast_bfloat16());
  CHECK((computing_type(at::kBFloat16, at::kCPU) == at::kBFloat16));
}

TEST_CASE("another answer about the CPU is refused") {
  const GivenAnswer wrong("perhaps");
  CHECK_CONTAINS(testing::failure(ErrorCode::kInvalidArgument, [] { has_fast_bfloat16(); }),
                 "OUTRIDER_CPU_BFLOAT16 is 'perhaps'\naccepted are fast and slow");
}

}  // namespace
}  // namespace outrider::cpu_arithmetic_tests
