#include "verify/step_passes.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>

#include <charconv>
#include <map>
#include <string_view>

#include "outrider/loss/step_logits.h"
#include "outrider/model/prepared_batch.h"
#include "outrider/nn/kv_cache.h"

namespace outrider::verify {
namespace {

constexpr uint64_t kSeed = 0;

/// The random generators of the CPU and of a device: seeded while it lives, then as they were.
class SeededGenerators {
 public:
  explicit SeededGenerators(at::Device device) {
    take(at::globalContext().defaultGenerator(at::kCPU));
    if (!device.is_cpu()) take(at::globalContext().defaultGenerator(device));
  }
  ~SeededGenerators() {
    for (size_t i = 0; i < generators_.size(); ++i) generators_[i].set_state(before_[i]);
  }
  SeededGenerators(const SeededGenerators&) = delete;
  SeededGenerators& operator=(const SeededGenerators&) = delete;

  bool were_used() const {
    for (size_t i = 0; i < generators_.size(); ++i) {
      if (!generators_[i].get_state().equal(seeded_[i])) return true;
    }
    return false;
  }

 private:
  void take(at::Generator generator) {
    before_.push_back(generator.get_state());
    generator.set_current_seed(kSeed);
    seeded_.push_back(generator.get_state());
    generators_.push_back(std::move(generator));
  }

  std::vector<at::Generator> generators_;
  std::vector<at::Tensor> before_, seeded_;
};

class TrainingMode {
 public:
  explicit TrainingMode(Draft& draft) : draft_(draft), before_(draft.is_training()) {
    draft_.train();
  }
  ~TrainingMode() { draft_.train(before_); }
  TrainingMode(const TrainingMode&) = delete;
  TrainingMode& operator=(const TrainingMode&) = delete;

 private:
  Draft& draft_;
  bool before_;
};

std::optional<int64_t> step_in(std::string_view name) {
  if (!name.starts_with(loss::kStepLogits)) return std::nullopt;
  name.remove_prefix(std::string_view(loss::kStepLogits).size());
  int64_t step = 0;
  const auto end = std::from_chars(name.data(), name.data() + name.size(), step);
  return end.ec == std::errc() ? std::optional(step) : std::nullopt;
}

TrainBatch batch_of(const at::Tensor& ids, const at::Tensor& targets,
                    const HiddenStateRequest& request) {
  TrainBatch batch;
  batch.input_ids = ids;
  batch.attention_mask = at::ones_like(ids);
  batch.loss_mask = targets.defined() ? targets : batch.attention_mask;
  return prepared_batch(batch, request, /*right_padded=*/true);
}

// [1,S,h] → [1,S+more,h], zeros behind it.
at::Tensor lengthened(const at::Tensor& states, int64_t more) {
  return states.defined() ? at::constant_pad_nd(states, {0, 0, 0, more}) : states;
}

// The base's states of `ids` for a row that goes on otherwise: what is read behind the chain's row
// are embeddings alone.
BaseOutputs outputs_for(const BaseOutputs& base, const at::Tensor& ids, int64_t more) {
  BaseOutputs outputs = base;
  outputs.last_hidden = lengthened(base.last_hidden, more);
  outputs.last_hidden_prenorm = lengthened(base.last_hidden_prenorm, more);
  for (auto& [layer, states] : outputs.layer_outputs) states = lengthened(states, more);
  if (base.input_embeddings.defined()) outputs.input_embeddings = base.head->embedding(ids);
  return outputs;
}

}  // namespace

TrainedSteps trained_steps(Draft& draft, const BaseOutputs& base, const at::Tensor& ids,
                           const at::Tensor& targets) {
  const at::NoGradGuard no_grad;
  const SeededGenerators generators(ids.device());
  const TrainingMode mode(draft);
  auto batch = batch_of(ids, targets, draft.hidden_states_needed());
  std::map<int64_t, at::Tensor> steps;
  batch.recorder = [&](const std::string& name, const at::Tensor& tensor) {
    if (const auto step = step_in(name)) steps[*step] = tensor.detach();
  };
  draft.loss(base, batch);
  TrainedSteps result;
  for (const auto& [step, logits] : steps) result.logits.push_back(logits);
  result.draws = generators.were_used();
  return result;
}

BaseOutputs whole_pass(CausalLM& base, const at::Tensor& ids, const HiddenStateRequest& request) {
  const at::NoGradGuard no_grad;
  const auto places = at::arange(ids.size(1), ids.options()).unsqueeze(0);
  return base.run_base(
      {.input_ids = ids, .position_ids = places, .key_mask = {}, .request = request});
}

std::vector<Chunk> cached_passes(CausalLM& base, const at::Tensor& ids,
                                 const HiddenStateRequest& request,
                                 const std::vector<int64_t>& lengths) {
  const c10::InferenceMode inference;
  nn::KvCache cache(base.config().num_hidden_layers, 1);
  std::vector<Chunk> chunks;
  const int64_t rows = ids.size(1) - 1;
  for (int64_t begin = 0; begin < rows;) {
    const auto repeated = chunks.size() < lengths.size()
                              ? chunks.size()
                              : 1 + (chunks.size() - 1) % std::max<size_t>(1, lengths.size() - 1);
    const auto length = lengths[std::min(repeated, lengths.size() - 1)];
    const int64_t end = std::min(rows, begin + length);
    chunks.push_back({begin, end,
                      base.run_base({.input_ids = ids.slice(1, begin, end),
                                     .position_ids = {},
                                     .key_mask = {},
                                     .request = request,
                                     .cache = &cache})});
    cache.commit({end - begin});
    begin = end;
  }
  return chunks;
}

std::vector<ServedChain> served_chains(Draft& draft, const std::vector<Chunk>& chunks,
                                       const at::Tensor& ids, int64_t depth) {
  const c10::InferenceMode inference;
  const auto drafter = draft.make_drafter();
  Sampler sampler({.temperature = 1.0}, kSeed);
  std::vector<ServedChain> chains;
  for (const auto& chunk : chunks) {
    const auto following = ids.slice(1, chunk.begin + 1, chunk.end + 1);
    chunk.begin == 0 ? drafter->prefill(chunk.outputs, following)
                     : drafter->commit(chunk.outputs, following);
    const auto tree =
        drafter->propose({.max_tokens = depth, .depth = depth, .width = 1, .sampler = &sampler});
    chains.push_back({chunk.end - 1, tree.tokens[0], tree.q.defined() ? tree.q[0] : tree.q});
  }
  return chains;
}

std::vector<at::Tensor> trained_chain(Draft& draft, const BaseOutputs& base, const at::Tensor& ids,
                                      const ServedChain& chain) {
  const int64_t drafted = chain.tokens.size(0), length = ids.size(1);
  auto row = at::constant_pad_nd(ids, {0, drafted + 1});
  row.slice(1, chain.row + 2, chain.row + 2 + drafted).copy_(chain.tokens.clamp_min(0));
  const auto outputs = outputs_for(base, row, row.size(1) - length);
  auto targets = at::zeros_like(row);
  targets.slice(1, chain.row + 2, chain.row + 3).fill_(1);
  std::vector<at::Tensor> logits;
  for (const auto& step : trained_steps(draft, outputs, row, targets).logits) {
    logits.push_back(step[0][chain.row]);
  }
  return logits;
}

}  // namespace outrider::verify
