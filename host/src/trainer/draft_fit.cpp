#include "trainer/draft_fit.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "outrider/error.h"
#include "outrider/model/draft_fit.h"
#include "spread_places.h"

namespace outrider {
namespace {

// Places in the selection.
std::vector<size_t> places_with(int64_t tokens, const Selection& selection) {
  const auto& lengths = selection.lengths;
  const auto all = std::reduce(lengths.begin(), lengths.end(), int64_t{0});
  const auto have = static_cast<int64_t>(lengths.size());
  const int64_t count = std::clamp(have * tokens / std::max<int64_t>(all, 1), int64_t{1}, have);
  return spread_places(lengths.size(), static_cast<size_t>(count));
}

std::vector<std::unique_ptr<DraftFit>> fits_of(const CausalLM& model) {
  std::vector<std::unique_ptr<DraftFit>> fits;
  for (const auto& attached : model.speculative_state()) {
    if (auto fit = attached.draft->make_fit(model)) fits.push_back(std::move(fit));
  }
  if (!fits.empty()) return fits;
  throw Error(ErrorCode::kUnsupported,
              "none of the model's drafts has a start that is fitted to data",
              "train without --fit-tokens");
}

}  // namespace

FittedOn fit_drafts(CausalLM& model, const TrainingData& data, const Selection& selection,
                    int64_t tokens, int64_t max_length, const EvaluationProgress& on_conversation) {
  const at::NoGradGuard no_grad;
  const auto fits = fits_of(model);
  const auto places = places_with(tokens, selection);
  FittedOn done;
  for (const size_t place : places) {
    const int64_t length = selection.lengths[place];
    const auto whole = data.batch({{selection.conversations[place]}}, max_length);
    // On a GPU batches are wider than what they hold.
    const TrainBatch batch{.input_ids = whole.forward.batch.input_ids.slice(1, 0, length)};
    for (const auto& fit : fits) {
      fit->add(
          model.run_base({.input_ids = batch.input_ids, .request = fit->hidden_states_needed()}),
          batch);
    }
    done.tokens += length;
    on_conversation(++done.conversations, static_cast<int64_t>(places.size()), done.tokens);
  }
  for (const auto& fit : fits) fit->finish();
  return done;
}

}  // namespace outrider
