#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "outrider/api.h"
#include "outrider/error.h"

namespace outrider {

/// Notices losses and gradients that are not finite, and knows which step and conversations they
/// came from. Remembering costs no synchronisation; checking does.
class OUTRIDER_API FiniteWatch {
 public:
  /// What else is known of a bad step's conversations: an error that says whose fault it is.
  using Diagnosis = std::function<std::optional<Error>(const std::vector<int64_t>& conversations)>;

  /// `data` is the folder that conversations are numbered in.
  explicit FiniteWatch(std::filesystem::path data, Diagnosis diagnose = {})
      : data_(std::move(data)), diagnose_(std::move(diagnose)) {}

  struct Step {
    int64_t number;
    std::vector<int64_t> conversations;
    at::Tensor loss, gradient_norm;  // 0-dim
  };
  void remember(Step step);

  /// Looks at the steps since the last call. Throws kNonFinite about the first bad one, with the
  /// diagnosis where there is one.
  void check();

 private:
  [[noreturn]] void report(const Step& step, float loss, float norm) const;

  std::filesystem::path data_;
  Diagnosis diagnose_;
  std::vector<Step> steps_;
};

}  // namespace outrider
