#include "bench/decode_bench.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "bench/timing.h"
#include "generate/session.h"
#include "machine/device.h"

namespace outrider {
namespace {

constexpr int kDraftRounds = 24;

struct DraftWay {
  const char* name;
  DraftSettings settings;
};

const std::vector<DraftWay>& draft_ways() {
  static const auto& ways =
      *new std::vector<DraftWay>{{"chain", {.shape = DraftShape::kChain}},
                                 {"static-tree", {.shape = DraftShape::kStaticTree}},
                                 {"dynamic-tree", {.shape = DraftShape::kDynamicTree}}};
  return ways;
}

// Bytes per second that a large copy reads and writes together, at its best.
double copy_rate(at::Device device) {
  const int64_t bytes = device.is_cpu() ? int64_t{1} << 27 : int64_t{1} << 30;
  const auto from = at::zeros({bytes}, at::TensorOptions().device(device).dtype(at::kByte));
  auto to = at::zeros_like(from);
  const double seconds = std::ranges::min(repeated_seconds_of(device, [&] { to.copy_(from); }));
  return 2.0 * static_cast<double>(bytes) / seconds;
}

// What a step of all sequences must read: an embedding's row is little, the head is whole.
double bytes_per_step(const DecodeWorkload& workload, const CausalLM& model, int64_t new_tokens) {
  const auto& config = model.config();
  const auto width = static_cast<double>(c10::elementSize(model.dtype()));
  auto elements = static_cast<double>(config.hidden_size * config.vocab_size);
  for (const auto& layer : model.decoder_layers()) {
    for (const auto& parameter : layer->parameters()) {
      elements += static_cast<double>(parameter.numel());
    }
  }
  const auto kept = static_cast<double>(workload.length) + static_cast<double>(new_tokens) / 2;
  elements += 2.0 * kept *
              static_cast<double>(workload.rows * config.num_hidden_layers *
                                  config.num_key_value_heads * config.head_dim);
  return elements * width;
}

class DecodeBench {
 public:
  DecodeBench(const DecodeWorkload& workload, const DecodeBenchOptions& options)
      : workload_(workload),
        options_(options),
        model_(make_workload_model(
            workload, at::TensorOptions().device(options.device).dtype(options.dtype))) {
    for (int64_t i = 0; i < workload.rows; ++i) {
      const auto ids =
          at::randint(model_->config().vocab_size, {workload.length}, at::TensorOptions(at::kLong));
      const auto* first = ids.const_data_ptr<int64_t>();
      prompts_.emplace_back(first, first + workload.length);
    }
  }

  Json measured() {
    const auto plain = plain_seconds();
    const double step = median(plain);
    const double bytes = bytes_per_step(workload_, *model_, options_.new_tokens);
    const double rate = copy_rate(options_.device);
    Json result = {{"workload", workload_.name},
                   {"device", options_.device.str()},
                   {"dtype", c10::toString(options_.dtype)},
                   {"new_tokens", options_.new_tokens},
                   {"tokens_per_second",
                    {{"median", rate_of(step)},
                     {"least", rate_of(std::ranges::max(plain))},
                     {"most", rate_of(std::ranges::min(plain))}}},
                   {"step_seconds", step},
                   {"bytes_per_step", bytes},
                   {"copy_bytes_per_second", rate},
                   {"share_of_limit", bytes / rate / step},
                   {"rounds", Json::array()}};
    for (const auto& way : draft_ways()) result["rounds"].push_back(round_of(way, step));
    if (!options_.device.is_cpu()) {
      result["device_memory_gib"] =
          static_cast<double>(device_memory(options_.device).used) / (1 << 30);
    }
    return result;
  }

 private:
  double rate_of(double step) const { return static_cast<double>(workload_.rows) / step; }

  decode::DecodedBatch run(const decode::Decoder& decoder, int64_t tokens,
                           const DraftRequest& request) const {
    decode::DecodeOptions options;
    options.max_new_tokens = tokens;
    options.draft = request;
    return decoder.run(prompts_, options);
  }

  // Of each repetition, a step's. The first token comes with the prompts.
  std::vector<double> plain_seconds() const {
    const auto decoder = decoder_of(*model_, DrafterKind::kNone);
    run(decoder, options_.new_tokens, {});
    std::vector<double> seconds;
    for (int64_t i = 0; i < options_.repeats; ++i) {
      const auto batch = run(decoder, options_.new_tokens, {});
      seconds.push_back(batch.base_seconds / static_cast<double>(options_.new_tokens - 1));
    }
    return seconds;
  }

  // Of rounds as they are where nothing is accepted: what a round costs does not depend on it.
  Json round_of(const DraftWay& way, double step) const {
    const auto decoder = decoder_of(*model_, DrafterKind::kModel);
    const DraftPlan plan(way.settings);
    run(decoder, kDraftRounds, plan.request());
    const auto batch = run(decoder, kDraftRounds, plan.request());
    int64_t rounds = 0;
    for (const auto& sequence : batch.sequences) rounds = std::max(rounds, sequence.rounds);
    const double drafting = batch.draft_seconds / static_cast<double>(rounds),
                 verifying = batch.base_seconds / static_cast<double>(rounds);
    return {{"draft_shape", way.name},
            {"num_draft_tokens", plan.request().max_tokens},
            {"draft_seconds", drafting},
            {"base_seconds", verifying},
            {"acceptance_length_that_pays", (drafting + verifying) / step}};
  }

  const DecodeWorkload& workload_;
  const DecodeBenchOptions& options_;
  std::shared_ptr<CausalLM> model_;
  std::vector<std::vector<int64_t>> prompts_;
};

}  // namespace

Json bench_decoding(const DecodeWorkload& workload, const DecodeBenchOptions& options) {
  return DecodeBench(workload, options).measured();
}

}  // namespace outrider
