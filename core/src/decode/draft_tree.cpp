#include "outrider/decode/draft_tree.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace outrider::decode {
namespace {

// [B,N,N] float: a node's step to its parent, and to itself.
at::Tensor steps_up(const at::Tensor& parents) {
  const int64_t count = parents.size(1);
  const auto nodes = at::arange(count, parents.options());
  const auto is_parent = parents.unsqueeze(2).eq(nodes);
  return at::logical_or(is_parent, nodes.unsqueeze(1).eq(nodes)).to(at::kFloat);
}

struct FormNode {
  int64_t parent, rank, level;
  double use;
};

}  // namespace

// Steps of twice the length, until they are as long as a path can be.
at::Tensor ancestors(const at::Tensor& parents) {
  auto reached = steps_up(parents);
  for (int64_t length = 1; length < parents.size(1); length *= 2) {
    reached = at::matmul(reached, reached).clamp_max(1.0);
  }
  return reached.gt(0.5);
}

at::Tensor ancestors_from_root(const at::Tensor& parents) {
  auto result = at::constant_pad_nd(ancestors(parents), {1, 0, 1, 0}, 0);
  result.select(2, 0).fill_(true);
  return result;
}

TreeForm likely_form(int64_t nodes, int64_t depth, int64_t width) {
  std::vector<FormNode> chosen, open;
  const auto open_children = [&](int64_t parent, int64_t level, double use) {
    if (level > depth) return;
    for (int64_t rank = 0; rank < width; ++rank) {
      open.push_back({parent, rank, level, use * 0.6 * std::pow(0.4, static_cast<double>(rank))});
    }
  };
  open_children(-1, 1, 1.0);
  while (static_cast<int64_t>(chosen.size()) < nodes && !open.empty()) {
    const auto best = std::max_element(open.begin(), open.end(),
                                       [](const auto& a, const auto& b) { return a.use < b.use; });
    const auto node = *best;
    open.erase(best);
    chosen.push_back(node);
    open_children(static_cast<int64_t>(chosen.size()) - 1, node.level + 1, node.use);
  }
  std::vector<size_t> order(chosen.size()), place(chosen.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return chosen[a].level < chosen[b].level; });
  for (size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
  TreeForm form;
  for (const size_t i : order) {
    const auto parent = chosen[i].parent;
    form.parents.push_back(parent < 0 ? -1
                                      : static_cast<int64_t>(place[static_cast<size_t>(parent)]));
    form.ranks.push_back(chosen[i].rank);
  }
  return form;
}

std::vector<std::vector<int64_t>> levels_of(const TreeForm& form) {
  std::vector<size_t> level(form.parents.size());
  std::vector<std::vector<int64_t>> levels;
  for (size_t i = 0; i < level.size(); ++i) {
    const auto parent = form.parents[i];
    level[i] = parent < 0 ? 0 : level.at(static_cast<size_t>(parent)) + 1;
    if (level[i] == levels.size()) levels.emplace_back();
    levels[level[i]].push_back(static_cast<int64_t>(i));
  }
  return levels;
}

TreeForm first_levels(const TreeForm& form, int64_t levels) {
  std::ptrdiff_t count = 0;
  for (const auto& level : levels_of(form)) {
    if (levels-- > 0) count += static_cast<std::ptrdiff_t>(level.size());
  }
  return {{form.parents.begin(), form.parents.begin() + count},
          {form.ranks.begin(), form.ranks.begin() + count}};
}

// Scores never increase along a path, and the sort is stable: no node comes without its parent.
DraftTree likeliest_tree(const std::vector<CandidateLevel>& levels, int64_t nodes) {
  std::vector<at::Tensor> tokens, scores, parents;
  int64_t before = -1;  // where the candidates of the level above begin
  int64_t total = 0;
  for (const auto& level : levels) {
    tokens.push_back(level.tokens);
    scores.push_back(level.log_q);
    parents.push_back(before < 0 ? at::full_like(level.tokens, -1) : level.parents + before);
    before = total;
    total += level.tokens.size(1);
  }
  const auto all_tokens = at::cat(tokens, 1), all_parents = at::cat(parents, 1);
  const auto order = at::cat(scores, 1).argsort(/*stable=*/true, 1, /*descending=*/true);
  const auto chosen = std::get<0>(order.slice(1, 0, nodes).sort(1));
  // The place of each candidate among the chosen ones.
  auto place = at::zeros_like(all_tokens);
  place.scatter_(1, chosen, at::arange(chosen.size(1), chosen.options()).expand_as(chosen));
  const auto old_parents = all_parents.gather(1, chosen);
  const auto new_parents = place.gather(1, old_parents.clamp_min(0));
  return {all_tokens.gather(1, chosen), at::where(old_parents.lt(0), old_parents, new_parents), {}};
}

}  // namespace outrider::decode
