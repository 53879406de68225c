#include "tiny_training.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <stdlib.h>

#include <limits>
#include <string>
#include <utility>

#include "outrider/checkpoint/tensor_io.h"
#include "outrider/files/json_file.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/host/sha256.h"
#include "outrider/model/llama.h"
#include "outrider/sdk/simple_mode.h"

namespace outrider::testing {
namespace {

struct TinyConfig {
  double noise = 0.01;
};

const StructSchema<TinyConfig>& tiny_schema() {
  static const auto schema = [] {
    StructSchema<TinyConfig> schema("TinyConfig");
    schema.field("noise", &TinyConfig::noise, "Scale of the random draw in the loss.");
    return schema;
  }();
  return schema;
}

/// Numbers without a pattern of low rank.
at::Tensor wave(at::IntArrayRef shape, double frequency) {
  int64_t size = 1;
  for (const auto n : shape) size *= n;
  return at::sin(at::arange(size, at::kFloat).square() * frequency).reshape(shape).mul(0.3);
}

class TinyDraft : public Draft {
 public:
  TinyDraft(const BaseInfo& base, const TinyConfig& config) : noise_(config.noise) {
    const auto h = base.hidden_size;
    for (int step = 0; step < 2; ++step) {
      weights_.push_back(
          register_parameter("weight" + std::to_string(step), wave({h, h}, 1.7 + step)));
    }
    bias_ = register_parameter("bias", wave({h}, 0.9));
  }

  HiddenStateRequest hidden_states_needed() const override { return {}; }

  DraftLoss loss(const BaseOutputs& base, const TrainBatch& batch) override {
    DraftLoss loss;
    for (size_t step = 0; step < weights_.size(); ++step) {
      loss.steps.push_back(this->step(base, batch, static_cast<int64_t>(step)));
      const auto& part = loss.steps.back().loss;
      loss.total = loss.total.defined() ? loss.total + part : part;
    }
    if (++calls_ == acts_at) action();
    if (spoiled_from > 0 && calls_ >= spoiled_from) {
      loss.total = loss.total * std::numeric_limits<double>::infinity();
    }
    return loss;
  }

  int64_t spoiled_from = 0, acts_at = 0;
  std::function<void()> action;

 private:
  /// Predicts the token 1 + `step` ahead.
  StepMetrics step(const BaseOutputs& base, const TrainBatch& batch, int64_t step) {
    const auto ahead = 1 + step;
    const auto targets = token_targets(batch);
    const auto hidden = base.last_hidden.slice(1, 0, -ahead);
    const auto moved = at::matmul(hidden, weights_[step]) + bias_;
    const auto rows = moved + noise_ * at::rand(moved.sizes());
    const auto log_p = at::log_softmax(base.head->logits(rows.flatten(0, 1)), -1);
    const auto ids = targets.ids.slice(1, ahead).flatten();
    const auto mask = targets.mask.slice(1, ahead).flatten();
    const auto count = mask.sum();
    const auto mean = [&](const at::Tensor& x) { return (x * mask).sum() / count.clamp_min(1.0); };
    const auto target_log_p = log_p.gather(1, ids.unsqueeze(1)).squeeze(1);
    return {"step_" + std::to_string(step), mean(-target_log_p),
            mean(log_p.argmax(-1).eq(ids).to(at::kFloat)), mean(target_log_p.detach().exp()),
            count};
  }

  double noise_;
  int64_t calls_ = 0;
  std::vector<at::Tensor> weights_;
  at::Tensor bias_;
};

using TinyMode = SimpleMode<TinyDraft, TinyConfig>;

const ModeDescriptor& tiny_mode() {
  static const ModeDescriptor* const registered = [] {
    std::vector<std::unique_ptr<const ModeDescriptor>> modes;
    modes.push_back(
        std::make_unique<TinyMode>("tiny_trained", "A draft for tests.", "tiny", tiny_schema()));
    PluginInfo plugin;
    plugin.name = "tiny_training";
    plugin.version = SemVer::parse("1.0.0");
    plugin.sha256 = std::string(64, '0');
    plugin.modes = {"tiny_trained"};
    mode_registry().commit(plugin, std::move(modes));
    return mode_registry().get("tiny_trained").descriptor.get();
  }();
  return *registered;
}

ModelConfig tiny_config() {
  return ModelConfig::from_json({{"architectures", {"LlamaForCausalLM"}},
                                 {"model_type", "llama"},
                                 {"vocab_size", kTinyVocabulary},
                                 {"hidden_size", 8},
                                 {"intermediate_size", 16},
                                 {"num_hidden_layers", 1},
                                 {"num_attention_heads", 2},
                                 {"num_key_value_heads", 1},
                                 {"max_position_embeddings", 64},
                                 {"rms_norm_eps", 1e-5},
                                 {"tie_word_embeddings", false}},
                                "tiny config");
}

}  // namespace

std::string failure(ErrorCode code, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    CHECK(e.code() == code);
    return e.what() + ("\n" + e.hint());
  }
  FAIL("nothing was thrown");
  return {};
}

std::shared_ptr<CausalLM> tiny_model() {
  const auto model =
      std::make_shared<LlamaForCausalLM>(tiny_config(), at::TensorOptions(at::kFloat));
  double frequency = 0.7;
  for (auto& parameter : model->parameters()) {
    const at::NoGradGuard no_grad;
    parameter.copy_(wave(parameter.sizes(), frequency += 0.31) * 4.0);
  }
  auto conversion = tiny_mode().convert(model->base_info(), tiny_schema().resolve(Json::object()));
  ModeState state;
  state.mode = "tiny_trained";
  state.plugin = mode_registry().get("tiny_trained").plugin.reference();
  state.config = conversion.config;
  state.metadata = conversion.metadata;
  model->attach(std::move(conversion), std::move(state));
  return model;
}

void write_tiny_shards(const std::filesystem::path& folder, int64_t count) {
  std::vector<int32_t> ids;
  std::vector<uint8_t> mask;
  std::vector<int64_t> offsets = {0};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = 5 + i * 5 % 8;
    for (int64_t t = 0; t < length; ++t) {
      ids.push_back(static_cast<int32_t>((i * 7 + t * (i % 3 + 1)) % kTinyVocabulary));
      mask.push_back(t * 3 >= length);
    }
    offsets.push_back(static_cast<int64_t>(ids.size()));
  }
  std::filesystem::create_directories(folder);
  write_tensors(folder / "shard-00000.safetensors", {{"input_ids", at::tensor(ids, at::kInt)},
                                                     {"loss_mask", at::tensor(mask, at::kByte)},
                                                     {"offsets", at::tensor(offsets, at::kLong)}});
  const Json shard = {{"file", "shard-00000.safetensors"},
                      {"sha256", sha256_of_file(folder / "shard-00000.safetensors")},
                      {"conversations", count},
                      {"tokens", ids.size()}};
  write_json_file(folder / "shards.json", {{"format_version", 1},
                                           {"kind", "tokens"},
                                           {"vocab_size", kTinyVocabulary},
                                           {"shards", Json::array({shard})}});
}

void act_in_tiny_loss(CausalLM& model, int64_t call, std::function<void()> action) {
  auto& draft = dynamic_cast<TinyDraft&>(*model.speculative_state().front().draft);
  draft.acts_at = call;
  draft.action = std::move(action);
}

void spoil_tiny_losses_from(CausalLM& model, int64_t call) {
  dynamic_cast<TinyDraft&>(*model.speculative_state().front().draft).spoiled_from = call;
}

}  // namespace outrider::testing
