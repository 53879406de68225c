#include "outrider/decode/stepwise.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "outrider/decode/draft_tree.h"
#include "outrider/kernels/accumulation.h"
#include "outrider/kernels/recorded_work.h"
#include "outrider/ops/likeliest.h"

namespace outrider::decode {
namespace {

at::Tensor base_tokens(const DraftSteps& steps, const at::Tensor& ids) {
  return steps.vocabulary.defined() ? steps.vocabulary.index({ids}) : ids;
}

// probabilities [B,V'] → [B,V]; the draft gives none to tokens that it does not know.
at::Tensor over_base_vocabulary(const DraftSteps& steps, const at::Tensor& probabilities) {
  if (!steps.vocabulary.defined()) return probabilities;
  auto all = at::zeros({probabilities.size(0), steps.vocab_size}, probabilities.options());
  return all.index_copy_(1, steps.vocabulary, probabilities);
}

at::Tensor drawn(const DraftRequest& request, int64_t step, const at::Tensor& q) {
  return request.numbers.defined() ? Sampler::draw(q, request.numbers.select(0, step))
                                   : request.sampler->draw(q);
}

DraftTree draft_chain(const DraftSteps& steps, const DraftRequest& request) {
  std::vector<at::Tensor> tokens, distributions;
  auto state = steps.state;
  for (int64_t i = 0; i < request.max_tokens; ++i) {
    if (i > 0) state = steps.advance(state, tokens.back().unsqueeze(1), {});
    const auto logits = steps.logits(state).squeeze(1);
    if (request.on_logits) request.on_logits(logits);
    if (request.sampler) {
      const auto q = request.sampler->probabilities(logits);
      tokens.push_back(base_tokens(steps, drawn(request, i, q)));
      distributions.push_back(over_base_vocabulary(steps, q));
    } else {
      tokens.push_back(ops::likeliest(logits, steps.vocabulary));
    }
  }
  const auto all = at::stack(tokens, 1);
  const auto parents = at::arange(-1, request.max_tokens - 1, all.options()).expand_as(all);
  return {all, parents, request.sampler ? at::stack(distributions, 1) : at::Tensor(),
          /*is_chain=*/true};
}

// Rows [B,k,…] at index [B,n] → [B,n,…].
at::Tensor rows_at_index(const at::Tensor& x, const at::Tensor& index) {
  return x.gather(1, index.unsqueeze(2).expand({-1, -1, x.size(2)}));
}

// [B,k,m+k] for tokens [B,k] whose parents, in `rows` of those before, saw `seen` [B,n,m].
at::Tensor seen_by(const at::Tensor& tokens, const at::Tensor& seen, const at::Tensor& rows) {
  const auto self =
      at::eye(tokens.size(1), tokens.options().dtype(at::kBool)).expand({tokens.size(0), -1, -1});
  return seen.defined() ? at::cat({rows_at_index(seen, rows), self}, 2) : self;
}

// The likeliest continuations of the frontier are candidates, the likeliest of these the next
// frontier.
DraftTree draft_likeliest(const DraftSteps& steps, const DraftRequest& request) {
  std::vector<CandidateLevel> levels;
  auto states = steps.state;
  at::Tensor scores, seen, places;  // of the frontier; places: among its level's candidates
  for (int64_t level = 0; level < request.depth; ++level) {
    const auto log_q = at::log_softmax(widened(steps.logits(states)), 2);
    const int64_t width = std::min(request.width, log_q.size(2));
    const auto [best, ids] = log_q.topk(width, 2);  // [B,k,width]
    const auto path = scores.defined() ? best + scores.unsqueeze(2) : best;
    const auto parents = places.defined() ? places.unsqueeze(2).expand_as(ids) : at::Tensor();
    levels.push_back({base_tokens(steps, ids).flatten(1), path.flatten(1),
                      parents.defined() ? parents.flatten(1) : parents});
    if (level + 1 == request.depth) break;
    std::tie(scores, places) = levels.back().log_q.topk(width, 1);
    const auto tokens = levels.back().tokens.gather(1, places);
    const auto rows = at::floor_divide(places, width);  // in the frontier before
    seen = seen_by(tokens, seen, rows);
    states = steps.advance(rows_at_index(states, rows), tokens, seen);
  }
  return likeliest_tree(levels, request.max_tokens);
}

bool is_parent(const TreeForm& form, int64_t node) {
  return std::count(form.parents.begin(), form.parents.end(), node) > 0;
}

// Of each node its place among those of its level that have children, or -1.
struct InnerNodes {
  std::vector<int64_t> nodes;  // of one level

  int64_t place(int64_t node) const {
    const auto found = std::find(nodes.begin(), nodes.end(), node);
    return found == nodes.end() ? 0 : found - nodes.begin();
  }
};

DraftTree draft_form(const DraftSteps& steps, const TreeForm& form) {
  const auto on_device = [&](const std::vector<int64_t>& values) {
    return kernels::integers_on(steps.state.device(), values).unsqueeze(0);
  };
  const int64_t batch = steps.state.size(0);
  const auto in_batch = [&](const at::Tensor& index) { return index.expand({batch, -1}); };
  std::vector<at::Tensor> tokens;
  auto states = steps.state;
  at::Tensor seen;
  InnerNodes before{{-1}};
  for (const auto& level : levels_of(form)) {
    std::vector<int64_t> rows, ranks, inner_places;
    InnerNodes inner;
    for (const int64_t node : level) {
      rows.push_back(before.place(form.parents[static_cast<size_t>(node)]));
      ranks.push_back(form.ranks[static_cast<size_t>(node)]);
      if (!is_parent(form, node)) continue;
      inner_places.push_back(static_cast<int64_t>(ranks.size()) - 1);
      inner.nodes.push_back(node);
    }
    const int64_t most = *std::max_element(ranks.begin(), ranks.end()) + 1;
    const auto best = std::get<1>(steps.logits(states).topk(most, 2)).flatten(1);
    const auto row = on_device(rows);
    tokens.push_back(base_tokens(steps, best.gather(1, in_batch(row * most + on_device(ranks)))));
    if (inner.nodes.empty()) break;
    const auto place = in_batch(on_device(inner_places));
    const auto parent = in_batch(row).gather(1, place);
    const auto next = tokens.back().gather(1, place);
    seen = seen_by(next, seen, parent);
    states = steps.advance(rows_at_index(states, parent), next, seen);
    before = inner;
  }
  const auto all = at::cat(tokens, 1);
  return {all, on_device(form.parents).expand_as(all), {}};
}

// A draft that looks ahead so far draws shorter chains and flatter trees.
DraftTree draft_within(DraftSteps steps, DraftRequest request) {
  const int64_t levels = std::exchange(steps.most_levels, 0);
  request.depth = std::min(request.depth, levels);
  if (request.width == 1) request.max_tokens = std::min(request.max_tokens, levels);
  if (!request.form) return draft_stepwise(steps, request);
  const auto form = first_levels(*request.form, levels);
  request.form = &form;
  return draft_stepwise(steps, request);
}

}  // namespace

DraftTree draft_stepwise(const DraftSteps& steps, const DraftRequest& request) {
  if (steps.most_levels > 0) return draft_within(steps, request);
  if (request.form) return draft_form(steps, *request.form);
  return request.width == 1 ? draft_chain(steps, request) : draft_likeliest(steps, request);
}

}  // namespace outrider::decode
