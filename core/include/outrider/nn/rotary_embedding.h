#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "outrider/api.h"
#include "outrider/config/rope_config.h"

namespace outrider::nn {

struct CosSin {
  at::Tensor cos, sin;  // [1 or B, 1, S, R] in the requested type, R rotated dimensions
};

/// Rotary position embedding (arXiv 2104.09864) with the frequency scalings of transformers:
/// default, linear, dynamic (NTK), llama3, yarn (arXiv 2309.00071), longrope (arXiv 2402.13753).
class OUTRIDER_API RotaryEmbedding {
 public:
  /// Rotates the first R = head_dim · partial_rotary_factor dimensions. Throws kInvalidConfig
  /// unless that is even and, with longrope, the number of factors R/2.
  RotaryEmbedding(RopeConfig config, int64_t head_dim);

  /// Tables for position_ids [1 or B, S] (int64), on their device; computed in float32, then cast.
  /// Keeps the frequencies on that device for the next call: not for two threads at once.
  /// `length`: of the sequences, where these are not all of their positions; 0: they are.
  CosSin tables(const at::Tensor& position_ids, at::ScalarType dtype, int64_t length = 0);
  /// Whether a position's table differs between sequences of different lengths.
  bool depends_on_length() const;

 private:
  at::Tensor inverse_frequencies(int64_t sequence_length) const;
  const at::Tensor& frequencies_on(const at::Device& device);

  RopeConfig config_;
  int64_t rotated_;
  double attention_factor_ = 1.0;
  // [R/2] float32, undefined where they depend on the sequence; on the device that asked last,
  // since a copy to a device would wait for it in every step.
  at::Tensor inverse_frequencies_;
};

/// x [B,H,S,D] with its first R dimensions rotated, x·cos + rotate_half(x)·sin, and the others
/// kept.
OUTRIDER_API at::Tensor apply_rotary(const at::Tensor& x, const CosSin& tables);

/// Query and key, rotated as apply_rotary() does: on a GPU without a graph in their own place.
OUTRIDER_API std::pair<at::Tensor, at::Tensor> rotated(const at::Tensor& query,
                                                       const at::Tensor& key, const CosSin& tables);

}  // namespace outrider::nn
