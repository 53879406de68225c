#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/drafter.h"

namespace outrider::decode {

/// parents [B,N] as in DraftTree → [B,N,N] bool: which nodes are a node's ancestors, or itself.
OUTRIDER_API at::Tensor ancestors(const at::Tensor& parents);

/// The same of the tree whose root, at index 0, is the token before the drafted ones: [B,1+N,1+N].
OUTRIDER_API at::Tensor ancestors_from_root(const at::Tensor& parents);

/// A tree of the most useful `nodes` of those with ranks below `width` and at most `depth` levels,
/// if a continuation of rank r is accepted with probability 0.6 · 0.4^r: what is asked for where
/// nothing is known of a draft. Nodes by level, siblings by rank.
OUTRIDER_API TreeForm likely_form(int64_t nodes, int64_t depth, int64_t width);

/// Levels 1, 2, … of a form: the indices of their nodes.
OUTRIDER_API std::vector<std::vector<int64_t>> levels_of(const TreeForm& form);

/// The form without what is deeper than `levels`.
OUTRIDER_API TreeForm first_levels(const TreeForm& form, int64_t levels);

/// One level of candidates, in which a tree of the likeliest nodes is sought. All [B,n].
struct CandidateLevel {
  at::Tensor tokens;
  at::Tensor log_q;    // of the path from the root
  at::Tensor parents;  // index among the candidates of the level before; the first level has none
};

/// The `nodes` likeliest candidates of all levels (fewer where there are no more), as a connected
/// tree: with equal probabilities parents come first.
OUTRIDER_API DraftTree likeliest_tree(const std::vector<CandidateLevel>& levels, int64_t nodes);

}  // namespace outrider::decode
