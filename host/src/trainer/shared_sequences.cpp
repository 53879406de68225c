#include "trainer/shared_sequences.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <numeric>
#include <string>
#include <vector>

#include "distributed/sequence_group.h"
#include "outrider/problems.h"

namespace outrider {
namespace {

/// Whose attention heads the processes divide.
struct Heads {
  std::string owner;
  int64_t count;
};

std::vector<Heads> heads_of(const CausalLM& model) {
  std::vector<Heads> all = {{"the base", model.config().num_attention_heads}};
  for (const auto& attached : model.speculative_state()) {
    const auto needs = attached.draft->sequence_needs();
    if (!needs || needs->attention_heads == 0) continue;
    all.push_back({fmt::format("draft '{}'", attached.state.mode), needs->attention_heads});
  }
  return all;
}

// How many processes may share the heads of all of them.
std::vector<int64_t> accepted_counts(const std::vector<Heads>& all) {
  int64_t common = 0;
  for (const auto& heads : all) common = std::gcd(common, heads.count);
  std::vector<int64_t> counts;
  for (int64_t i = 1; i <= common; ++i) {
    if (common % i == 0) counts.push_back(i);
  }
  return counts;
}

void check_heads(const CausalLM& model, int64_t processes, Problems& problems) {
  const auto all = heads_of(model);
  for (const auto& heads : all) {
    problems.add_when(
        heads.count % processes != 0,
        fmt::format("{} has {} attention heads, which {} processes cannot divide "
                    "(accepted for this model: {})",
                    heads.owner, heads.count, processes, fmt::join(accepted_counts(all), ", ")));
  }
}

void check_base(const CausalLM& model, Problems& problems) {
  problems.add_when(
      !model.divides_sequences(),
      fmt::format("the base's {} runs on whole sequences alone", model.config().architecture));
  problems.add_when(!model.has_edit(BaseEdit::kFreezeParameters),
                    "the base itself is trained, which needs whole sequences");
}

void check_drafts(const CausalLM& model, Problems& problems) {
  for (const auto& attached : model.speculative_state()) {
    const auto& draft = *attached.draft;
    problems.add_when(
        !draft.sequence_needs() || draft.hidden_states_needed().at_padding,
        fmt::format("draft '{}', as it is configured, trains on whole sequences alone",
                    attached.state.mode));
  }
}

}  // namespace

std::shared_ptr<SequenceShare> meet_sequence_share(const TrainOptions& options,
                                                   const CausalLM& model, const TrainingData& data,
                                                   const TrainingData* eval_data) {
  const int64_t count = options.sequence_parallel;
  if (count == 1) return nullptr;
  Problems problems;
  check_base(model, problems);
  check_drafts(model, problems);
  check_heads(model, count, problems);
  problems.add_when(data.has_hidden_states() || (eval_data && eval_data->has_hidden_states()),
                    "the data holds the base's hidden states, of whole sequences");
  problems.throw_in_a_line(ErrorCode::kUnsupported,
                           fmt::format("sequence_parallel {} cannot share these sequences", count),
                           "train without --sequence-parallel: processes then share batches alone");
  return std::make_shared<SequenceGroup>(*options.processes, count);
}

}  // namespace outrider
