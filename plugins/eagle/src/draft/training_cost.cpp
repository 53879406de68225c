#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "eagle_draft.h"

namespace outrider::eagle {
namespace {

struct Sizes {
  explicit Sizes(const Architecture& a)
      : hidden(static_cast<double>(a.draft_hidden_size)),
        intermediate(static_cast<double>(a.intermediate_size)),
        heads(static_cast<double>(a.num_attention_heads)),
        queries(heads * static_cast<double>(a.head_dim)),
        keys(static_cast<double>(a.num_key_value_heads * a.head_dim)),
        layers(static_cast<double>(a.num_hidden_layers)) {}

  double hidden, intermediate, heads, queries, keys, layers;

  // Of a layer's pass over one position: query, key, value, what was attended to, the sum behind
  // it and the output; and the attention's log-sum-exp, in float32.
  double elements() const { return 2 * queries + 2 * keys + 2 * hidden; }
  double statistics_bytes() const { return 4 * heads; }
  // Gate and up.
  double products() const { return 2 * intermediate; }
  // Two normed inputs, of which EAGLE-3's is twice as wide, and the MLP's activation.
  double elementwise() const { return 3 * hidden + intermediate; }
  // In the backward pass of an MLP: the activation, its gradient, and those of gate and up.
  double working() const { return 4 * intermediate + 3 * hidden; }
};

bool is_used_once(const std::string& name, const Architecture& a) {
  return a.use_aux_hidden_state && name == "fc.weight";
}

}  // namespace

std::optional<TrainingCost> EagleDraft::training_cost(const TrainingShape& shape) const {
  const auto& a = settings_.architecture;
  const Sizes sizes(a);
  const auto element = static_cast<double>(parameters().front().element_size());
  const auto steps = static_cast<double>(std::min(settings_.ttt_steps, shape.length - 1));
  const auto heads = static_cast<double>(head_count());
  const double positions = shape.positions(), passes = positions * steps * sizes.layers;
  const bool keeps_all = shape.recompute == ops::Recompute::kNothing;
  const double step_products = positions * sizes.layers * sizes.products() * element;
  const double kept_steps =
      keeps_all ? steps
      : shape.recompute == ops::Recompute::kElementwise
          ? std::min(steps, std::floor(static_cast<double>(shape.most_kept) / step_products))
          : 0;
  TrainingCost cost;
  cost.kept = passes * (sizes.elements() * element + sizes.statistics_bytes()) +
              positions * sizes.hidden * element * (1 + steps * heads);
  cost.kept += kept_steps * step_products;
  if (keeps_all) cost.kept += passes * sizes.elementwise() * element;
  cost.working =
      positions * element * (sizes.working() + (kept_steps < steps ? sizes.products() : 0));
  cost.operations = passes * 6 * static_cast<double>(shape.length) * sizes.queries;
  for (const auto& item : named_parameters()) {
    if (item.value().dim() != 2 || item.key().starts_with("embed_tokens.")) continue;
    const auto elements = static_cast<double>(item.value().numel());
    cost.operations += positions * elements * (is_used_once(item.key(), a) ? 4 : 6 * steps);
  }
  if (!lm_head_) {
    cost.operations += positions * steps * 4 * sizes.hidden * static_cast<double>(a.vocab_size);
  }
  return cost;
}

}  // namespace outrider::eagle
