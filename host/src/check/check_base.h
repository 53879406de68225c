#pragma once

#include <filesystem>
#include <memory>

#include "outrider/model/causal_lm.h"

namespace outrider::check {

/// The base that modes are tried on, built anew for each check.
class CheckBase {
 public:
  /// An empty folder: a Llama of 8 layers, hidden size 32 and 97 tokens, with random weights.
  explicit CheckBase(std::filesystem::path folder) : folder_(std::move(folder)) {}

  std::shared_ptr<CausalLM> model(at::ScalarType dtype = at::kFloat,
                                  at::Device device = at::kCPU) const;
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

/// Token ids [rows, length] of a seed.
at::Tensor some_tokens(int64_t rows, int64_t length, int64_t vocab_size, uint64_t seed);

}  // namespace outrider::check
