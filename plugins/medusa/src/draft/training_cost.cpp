#include <ATen/ATen.h>

#include "medusa_draft.h"

namespace outrider::medusa {

// Of each head: the rows that it reads and their gradient, and of each block the product and the
// output.
std::optional<TrainingCost> MedusaDraft::training_cost(const TrainingShape& shape) const {
  TrainingCost cost;
  if (heads_.empty()) return cost;
  const auto& projection = heads_.front()->projection();
  const double row = static_cast<double>(projection.size(1) * projection.element_size());
  const auto heads = static_cast<double>(heads_.size());
  const auto blocks = static_cast<double>(config_.medusa_num_layers);
  cost.kept = shape.positions() * heads * row * (2 + 2 * blocks);
  cost.working = shape.positions() * row * 3;
  for (const auto& parameter : parameters()) {
    if (parameter.dim() == 2) {
      cost.operations += shape.positions() * 6 * static_cast<double>(parameter.numel());
    }
  }
  return cost;
}

}  // namespace outrider::medusa
