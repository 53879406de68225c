#include "outrider/model/draft.h"

namespace outrider {

Draft::~Draft() = default;

void Draft::initialize(const CausalLM&) {}

double expected_acceptance_length(const std::vector<double>& accuracies) {
  double length = 1.0, reached = 1.0;
  for (const double accuracy : accuracies) {
    reached *= accuracy;
    length += reached;
  }
  return length;
}

}  // namespace outrider
