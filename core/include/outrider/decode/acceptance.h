#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/drafter.h"
#include "outrider/ops/sampler.h"

namespace outrider::decode {

enum class AcceptanceRule {
  /// Tokens are distributed as the base alone would draw them: greedy where the sampler is; a
  /// drawn chain by x with probability min(1, p(x)/q(x)), else the residual max(p - q, 0)
  /// (arXiv 2211.17192); chosen siblings one after the other, each with its probability among what
  /// is left (arXiv 2305.09781, section 4.3).
  kLossless,
  /// Medusa's (arXiv 2401.10774, section 2.3.1): the longest path whose tokens have more than
  /// min(0.09, 0.3 · exp(-entropy)). It changes the distribution. Greedy where the sampler is.
  kTypical
};

/// What becomes of drafted trees.
struct Verdict {
  std::vector<std::vector<int64_t>> paths;  // of each sequence: the accepted nodes, level by level
  std::vector<int64_t> bonus;               // the base's own token behind each path
  std::vector<std::vector<int64_t>> tokens, parents;  // the trees', on the host
};

/// logits [B,1+N,V]: of the base, behind the sequences' ends (row 0) and behind each node.
/// Waits for the device once where the sampler is greedy, else a few times.
OUTRIDER_API Verdict verify(const at::Tensor& logits, const DraftTree& tree, Sampler& sampler,
                            AcceptanceRule rule = AcceptanceRule::kLossless);

}  // namespace outrider::decode
