#include "outrider/decode/acceptance.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "outrider/error.h"
#include "outrider/ops/likeliest.h"

namespace outrider::decode {
namespace {

// Medusa's generation, which has the two values from its paper.
constexpr double kTypicalThreshold = 0.09, kTypicalFactor = 0.3;

// A [B,n] tensor where the host can read it.
template <class T>
class OnHost {
 public:
  explicit OnHost(const at::Tensor& tensor)
      : tensor_(tensor.to(at::kCPU, c10::CppTypeToScalarType<T>::value).contiguous()),
        width_(tensor.size(1)) {}
  T operator()(int64_t row, int64_t column) const {
    return tensor_.const_data_ptr<T>()[row * width_ + column];
  }
  int64_t rows() const { return tensor_.size(0); }
  int64_t width() const { return width_; }

 private:
  at::Tensor tensor_;
  int64_t width_;
};

// With further integers [B,n] of a device, so that one copy brings all.
struct TreeOnHost {
  explicit TreeOnHost(const DraftTree& tree) : TreeOnHost(tree, tree.tokens.slice(1, 0, 0)) {}
  TreeOnHost(const DraftTree& tree, const at::Tensor& further)
      : width(tree.tokens.size(1)), all(at::cat({tree.tokens, tree.parents, further}, 1)) {}

  int64_t sequences() const { return all.rows(); }
  int64_t tokens(int64_t sequence, int64_t node) const { return all(sequence, node); }
  int64_t parents(int64_t sequence, int64_t node) const { return all(sequence, width + node); }
  int64_t further(int64_t sequence, int64_t i) const { return all(sequence, 2 * width + i); }
  // In their order, `parent` -1 for the sequence's end; without absent ones.
  std::vector<int64_t> children(int64_t sequence, int64_t parent) const {
    std::vector<int64_t> found;
    for (int64_t i = parent + 1; i < width; ++i) {
      if (parents(sequence, i) == parent && tokens(sequence, i) >= 0) found.push_back(i);
    }
    return found;
  }

  int64_t width;
  OnHost<int64_t> all;
};

// One path per sequence: `step` says which child follows a node, -1 for none of them.
template <class Step>
Verdict walk(const TreeOnHost& tree, const Step& step) {
  Verdict verdict;
  verdict.paths.resize(static_cast<size_t>(tree.sequences()));
  for (int64_t b = 0; b < tree.sequences(); ++b) {
    auto& tokens = verdict.tokens.emplace_back();
    auto& parents = verdict.parents.emplace_back();
    for (int64_t i = 0; i < tree.width; ++i) {
      tokens.push_back(tree.tokens(b, i));
      parents.push_back(tree.parents(b, i));
    }
    auto& path = verdict.paths[static_cast<size_t>(b)];
    for (int64_t node = -1;;) {
      node = step(b, node, tree.children(b, node));
      if (node < 0) break;
      path.push_back(node);
    }
  }
  return verdict;
}

// Row of the logits behind each path.
std::vector<int64_t> last_rows(const Verdict& verdict) {
  std::vector<int64_t> rows;
  for (const auto& path : verdict.paths) rows.push_back(path.empty() ? 0 : path.back() + 1);
  return rows;
}

std::vector<int64_t> on_host(const at::Tensor& ids) {
  const OnHost<int64_t> values(ids.unsqueeze(0));
  std::vector<int64_t> result;
  for (int64_t i = 0; i < values.width(); ++i) result.push_back(values(0, i));
  return result;
}

at::Tensor rows_at(const at::Tensor& all, const std::vector<int64_t>& rows) {
  const auto index = at::tensor(rows, at::kLong).to(all.device()).view({-1, 1, 1});
  return all.gather(1, index.expand({-1, 1, all.size(2)})).squeeze(1);
}

// [B,N]: the entry of each node's token in the row of its parent.
at::Tensor of_nodes(const at::Tensor& all, const DraftTree& tree) {
  const auto row = (tree.parents + 1).unsqueeze(2).expand({-1, -1, 1});
  const int64_t width = all.size(2);
  const auto place = row.squeeze(2) * width + tree.tokens.clamp_min(0);
  return all.flatten(1).gather(1, place);
}

Verdict verify_greedily(const at::Tensor& logits, const DraftTree& tree) {
  const TreeOnHost host(tree, ops::likeliest(logits));
  auto verdict = walk(host, [&](int64_t b, int64_t node, const std::vector<int64_t>& children) {
    const auto found = std::find_if(children.begin(), children.end(), [&](int64_t child) {
      return host.tokens(b, child) == host.further(b, node + 1);
    });
    return found == children.end() ? int64_t{-1} : *found;
  });
  const auto rows = last_rows(verdict);
  for (size_t b = 0; b < rows.size(); ++b) {
    verdict.bonus.push_back(host.further(static_cast<int64_t>(b), rows[b]));
  }
  return verdict;
}

// x is drawn from q: accepted with min(1, p/q), and what is drawn after a rejection is of
// max(p - q, 0).
Verdict verify_drawn_chain(const at::Tensor& p, const DraftTree& tree, Sampler& sampler) {
  const int64_t count = tree.tokens.size(1), batch = tree.tokens.size(0);
  const OnHost<double> p_of(of_nodes(p, tree));
  const auto place = tree.tokens.clamp_min(0).unsqueeze(2);
  const OnHost<double> q_of(tree.q.gather(2, place).squeeze(2));
  const auto random = sampler.uniforms(batch * count);
  const TreeOnHost host(tree);
  std::vector<int64_t> rejected(static_cast<size_t>(batch), -1);
  auto verdict = walk(host, [&](int64_t b, int64_t, const std::vector<int64_t>& children) {
    if (children.empty()) return int64_t{-1};
    const int64_t node = children.front();
    const double u = random[static_cast<size_t>(b * count + node)];
    if (u * q_of(b, node) < p_of(b, node)) return node;
    rejected[static_cast<size_t>(b)] = node;
    return int64_t{-1};
  });
  const auto target = rows_at(p, last_rows(verdict));
  const auto index = at::tensor(rejected, at::kLong).to(p.device()).unsqueeze(1);
  const auto drafted = rows_at(tree.q, on_host(index.squeeze(1).clamp_min(0)));
  const auto residual = (target - drafted.to(target.scalar_type())).clamp_min(0);
  // Rounding alone can leave nothing, where both distributions are the same.
  const auto is_left = at::logical_and(index.ge(0), residual.sum(1, true).gt(0));
  verdict.bonus = on_host(sampler.draw(at::where(is_left, residual, target)));
  return verdict;
}

// Siblings one after the other: each is accepted with its share of what the rejected ones left.
Verdict verify_chosen(const at::Tensor& p, const DraftTree& tree, Sampler& sampler) {
  const int64_t count = tree.tokens.size(1), batch = tree.tokens.size(0);
  const OnHost<double> p_of(of_nodes(p, tree));
  const auto random = sampler.uniforms(batch * count);
  const TreeOnHost host(tree);
  std::vector<int64_t> rejected_at, rejected_tokens;
  auto verdict = walk(host, [&](int64_t b, int64_t, const std::vector<int64_t>& children) {
    std::vector<int64_t> rejected;
    double left = 1.0;
    for (const int64_t child : children) {
      const int64_t token = host.tokens(b, child);
      if (std::find(rejected.begin(), rejected.end(), token) != rejected.end()) continue;
      if (random[static_cast<size_t>(b * count + child)] * left < p_of(b, child)) return child;
      rejected.push_back(token);
      left -= p_of(b, child);
    }
    for (const int64_t token : rejected) {
      rejected_at.push_back(b);
      rejected_tokens.push_back(token);
    }
    return int64_t{-1};
  });
  auto target = rows_at(p, last_rows(verdict));
  if (!rejected_at.empty()) {
    const auto on_device = [&](const auto& ids) {
      return at::tensor(ids, at::kLong).to(p.device());
    };
    target.index_put_({on_device(rejected_at), on_device(rejected_tokens)},
                      at::zeros({}, target.options()));
  }
  verdict.bonus = on_host(sampler.draw(target));
  return verdict;
}

// The longest path counts; of several the first.
Verdict verify_typically(const at::Tensor& p, const DraftTree& tree, Sampler& sampler) {
  const auto entropy = -at::special_xlogy(p, p).sum(2, true);
  const auto least = (at::exp(-entropy) * kTypicalFactor).clamp_max(kTypicalThreshold);
  const auto rows = (tree.parents + 1);
  const OnHost<double> excess(of_nodes(p, tree) - least.squeeze(2).gather(1, rows));
  const TreeOnHost host(tree);
  std::vector<int64_t> height(static_cast<size_t>(tree.tokens.size(1)));
  int64_t measured = -1;
  const auto measure = [&](int64_t b) {
    for (int64_t i = host.width - 1; i >= 0; --i) {
      int64_t below = 0;
      for (const int64_t child : host.children(b, i)) {
        below = std::max(below, height[static_cast<size_t>(child)]);
      }
      height[static_cast<size_t>(i)] = excess(b, i) > 0 ? below + 1 : 0;
    }
    measured = b;
  };
  auto verdict = walk(host, [&](int64_t b, int64_t, const std::vector<int64_t>& children) {
    if (measured != b) measure(b);
    int64_t best = -1;
    for (const int64_t child : children) {
      const auto here = height[static_cast<size_t>(child)];
      if (here > (best < 0 ? 0 : height[static_cast<size_t>(best)])) best = child;
    }
    return best;
  });
  verdict.bonus = on_host(sampler.draw(rows_at(p, last_rows(verdict))));
  return verdict;
}

}  // namespace

Verdict verify(const at::Tensor& logits, const DraftTree& tree, Sampler& sampler,
               AcceptanceRule rule) {
  if (logits.size(1) != tree.tokens.size(1) + 1) {
    throw Error(ErrorCode::kInternal, "verify: logits [B,1+N,V] of a tree [B,N]");
  }
  if (sampler.is_greedy()) return verify_greedily(logits, tree);
  const auto p = sampler.probabilities(logits.flatten(0, 1)).view_as(logits);
  if (rule == AcceptanceRule::kTypical) return verify_typically(p, tree, sampler);
  return tree.q.defined() ? verify_drawn_chain(p, tree, sampler) : verify_chosen(p, tree, sampler);
}

}  // namespace outrider::decode
