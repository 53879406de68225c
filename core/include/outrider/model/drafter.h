#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "outrider/api.h"
#include "outrider/model/base_outputs.h"

namespace outrider {

/// Proposed continuations of B sequences, N nodes each, parents before children.
struct DraftTree {
  at::Tensor tokens;   // [B,N] int64
  at::Tensor parents;  // [B,N] int64: index of the parent node, or -1
  at::Tensor log_q;    // [B,N]: log-probability that the draft gave the node
  at::Tensor q;        // [B,N,V']: the draft's distribution at each node, when asked for
};

struct DraftRequest {
  int64_t max_tokens = 1, depth = 1, width = 1;
  bool want_distributions = false;  // for sampling: fills DraftTree::q
  double temperature = 0.0;
};

/// Proposes tokens for one batch of sequences; holds what it remembers of them.
class OUTRIDER_API Drafter {
 public:
  virtual ~Drafter();

  /// Rows of the base that have just been committed, oldest first: the prompt.
  virtual void prefill(const BaseOutputs& accepted, const at::Tensor& tokens) = 0;
  virtual DraftTree propose(const DraftRequest& request) = 0;
  /// The path that the base accepted, and its bonus token; what was proposed beyond it is undone.
  virtual void commit(const BaseOutputs& accepted, const at::Tensor& tokens) = 0;
  /// The sequences that go on, in their new order: [B'] int64.
  virtual void keep(const at::Tensor& rows) = 0;
};

}  // namespace outrider
