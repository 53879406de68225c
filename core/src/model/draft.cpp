#include "outrider/model/draft.h"

#include "outrider/error.h"

namespace outrider {

Drafter::~Drafter() = default;

Draft::~Draft() = default;

std::optional<SequenceNeeds> Draft::sequence_needs() const { return std::nullopt; }

bool Draft::heeds_documents() const { return false; }

std::optional<TrainingCost> Draft::training_cost(const TrainingShape&) const {
  return std::nullopt;
}

DraftFit::~DraftFit() = default;

void Draft::initialize(const BaseView&) {}

std::unique_ptr<DraftFit> Draft::make_fit(const BaseView&) { return nullptr; }

std::unique_ptr<Drafter> Draft::make_drafter() {
  throw Error(ErrorCode::kUnsupported, "this draft can be trained, but proposes no tokens yet",
              "its plugin would have to implement Draft::make_drafter()");
}

double expected_acceptance_length(const std::vector<double>& accuracies) {
  double length = 1.0, reached = 1.0;
  for (const double accuracy : accuracies) {
    reached *= accuracy;
    length += reached;
  }
  return length;
}

}  // namespace outrider
