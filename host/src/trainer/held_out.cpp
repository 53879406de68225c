#include "outrider/host/held_out.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "data/batches.h"
#include "trainer/draft_meter.h"
#include "trainer/held_out_pass.h"
#include "trainer/random_state.h"

namespace outrider {
namespace {

/// Longest first, so that little is padded and memory runs out at once or never.
std::vector<Batch> batches_by_length(const Selection& selection, int64_t batch_size) {
  std::vector<int64_t> order(selection.conversations.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return selection.lengths[a] > selection.lengths[b];
  });
  std::vector<Batch> batches;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i % batch_size == 0) batches.emplace_back();
    batches.back().push_back({selection.conversations[order[i]]});
  }
  return batches;
}

}  // namespace

double Evaluation::loss() const {
  double sum = 0;
  for (const auto& draft : drafts) sum += draft.loss;
  return sum;
}

Json Evaluation::to_json() const {
  return {{"conversations", conversations},
          {"trained_tokens", trained_tokens},
          {"drafts", outrider::to_json(drafts)}};
}

Evaluation evaluate(CausalLM& model, const TrainingData& data, int64_t batch_size,
                    int64_t max_length, const EvaluationProgress& on_batch) {
  WholeBatches batches(data, max_length);
  return evaluate(model, data, batches, batch_size, max_length, on_batch);
}

Evaluation evaluate(CausalLM& model, const TrainingData& data, BatchSource& batches,
                    int64_t batch_size, int64_t max_length, const EvaluationProgress& on_batch) {
  require_drafts(model);
  const auto selection = select_conversations(data.tokens(), model, max_length);
  const at::NoGradGuard no_grad;
  const DraftTrainingScope training_mode(model);
  const RandomStateScope same_draws_every_time(model.device(), /*seed=*/0);
  DraftMeter meter(mode_names(model));
  const auto total = static_cast<int64_t>(selection.conversations.size());
  int64_t done = 0, tokens = 0, trained_tokens = 0;
  for (const auto& batch : batches_by_length(selection, batch_size)) {
    auto [input, counts] = batches.part(batch);
    input.batch.measure_acceptance = true;
    auto output = model.forward(input);
    batches.complete(output, counts);
    meter.add(output.draft_losses);
    trained_tokens += counts.trained;
    done += static_cast<int64_t>(batch.size());
    tokens += counts.tokens;
    if (on_batch) on_batch(done, total, tokens);
  }
  return {total, trained_tokens, meter.report()};
}

}  // namespace outrider
