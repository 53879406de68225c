#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "outrider/model/base_outputs.h"

namespace outrider::testing {

/// Standard normal values that depend on nothing but the seed.
inline at::Tensor random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType type = at::kDouble) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(sizes, generator, at::kDouble).to(type);
}

/// Token ids in [0, vocabulary), of the seed alone.
inline at::Tensor random_ids(at::IntArrayRef sizes, int64_t vocabulary, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randint(0, vocabulary, sizes, generator, at::kLong);
}

/// True with the given probability, of the seed alone.
inline at::Tensor random_mask(at::IntArrayRef sizes, double probability, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::rand(sizes, generator, at::kDouble).lt(probability);
}

/// The largest |a - b|; infinite where the shapes differ, NaN where one is.
inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined() || a.sizes() != b.sizes()) {
    return std::numeric_limits<double>::infinity();
  }
  if (a.numel() == 0) return 0.0;
  return (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
}

/// A base's side of a batch made of random float64 values: what a draft's loss reads.
struct RandomBase {
  /// input_ids [B,S] in [0, vocabulary); `layers` are those whose outputs the draft asks for.
  RandomBase(const at::Tensor& input_ids, int64_t vocabulary, int64_t hidden_size,
             const std::vector<int64_t>& layers = {})
      : head(std::make_shared<const LmHead>(random({vocabulary, hidden_size}, 20),
                                            random({vocabulary, hidden_size}, 21))) {
    const std::vector<int64_t> sizes{input_ids.size(0), input_ids.size(1), hidden_size};
    outputs.input_embeddings = head->embedding(input_ids);
    outputs.last_hidden = random(sizes, 22);
    for (const int64_t layer : layers) {
      outputs.layer_outputs[layer] = random(sizes, 30 + static_cast<uint64_t>(layer));
    }
  }

  std::shared_ptr<const LmHead> head;
  BaseOutputs outputs{.head = head};
};

/// A new folder among the machine's temporary files, removed with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    auto pattern = (std::filesystem::temp_directory_path() / "outrider_test_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error(pattern + " is not created");
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace outrider::testing
