#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/base_outputs.h"
#include "outrider/ops/sampler.h"

namespace outrider {

/// Proposed continuations of B sequences, N nodes each, parents before children and likelier
/// siblings before others.
struct DraftTree {
  at::Tensor tokens;   // [B,N] int64 of the base's vocabulary; -1: this sequence has no such node
  at::Tensor parents;  // [B,N] int64: index of the parent node, or -1 behind the sequence's end
  /// [B,N,V] over the base's vocabulary: what each token was drawn from. Only of chains whose
  /// request named a sampler; undefined: the tokens were not drawn but chosen.
  at::Tensor q;
  bool is_chain = false;  // each node is the parent of the next one
};

/// A tree whose form is known before its tokens are, level by level.
struct TreeForm {
  std::vector<int64_t> parents;  // as in DraftTree
  std::vector<int64_t> ranks;    // 0: the likeliest continuation of the parent, 1: the next one
};

struct DraftRequest {
  /// A chain of `max_tokens` where `width` is 1. Else the likeliest max_tokens nodes (fewer where
  /// there are no more) of a tree, of whose levels the `width` likeliest nodes have `width`
  /// children each (EAGLE-2, arXiv 2406.16858), and which is `depth` levels deep.
  int64_t max_tokens = 1, depth = 1, width = 1;
  /// Where given, the tree has this form instead.
  const TreeForm* form = nullptr;
  /// Of chains: has tokens drawn from the draft's distribution with it. Null: the likeliest ones.
  Sampler* sampler = nullptr;
  /// [N,B] of Sampler::numbers(), where its random numbers for the N tokens were drawn ahead.
  at::Tensor numbers = {};
  /// Of chains: called with each token's logits [B,V'], over the draft's vocabulary.
  std::function<void(const at::Tensor& logits)> on_logits = {};
};

/// Proposes tokens for one batch of sequences; holds what it remembers of them.
class OUTRIDER_API Drafter {
 public:
  virtual ~Drafter();

  /// The first rows of the base that are committed, the prompts': B sequences, S rows each.
  /// tokens [B,S] int64: the one that follows each row, the last one just chosen by the base; -1
  /// behind the rows of a sequence that has fewer.
  virtual void prefill(const BaseOutputs& accepted, const at::Tensor& tokens) = 0;
  /// Continuations of the sequences, which end with the last token of each that is not -1.
  virtual DraftTree propose(const DraftRequest& request) = 0;
  /// Further rows and the tokens that follow them: those of the path that the base accepted, and
  /// its own token after it. What was proposed beyond it is undone.
  virtual void commit(const BaseOutputs& accepted, const at::Tensor& tokens) = 0;
  /// The sequences that go on, in their new order; none twice.
  virtual void keep(const std::vector<int64_t>& sequences) = 0;
  /// Whether prefill() may be called again, for a batch of other sequences, as if nothing had been:
  /// a drafter then serves one batch after the other and may keep what it has prepared.
  virtual bool begins_anew() const { return false; }
};

}  // namespace outrider
