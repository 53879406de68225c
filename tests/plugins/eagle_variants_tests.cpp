#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "draft/eagle_draft.h"
#include "eagle_mode.h"
#include "gradcheck.h"
#include "outrider/model/llama.h"

namespace outrider::testing::variant_tests {
namespace {

using eagle::DraftSettings;
using eagle::EagleDraft;

constexpr int64_t kVocabulary = 11, kHidden = 8, kBatch = 2, kLength = 7;

const ModelConfig& base_config() {
  static const auto config = ModelConfig::from_json({{"architectures", {"LlamaForCausalLM"}},
                                                     {"vocab_size", kVocabulary},
                                                     {"hidden_size", kHidden},
                                                     {"intermediate_size", 12},
                                                     {"num_hidden_layers", 3},
                                                     {"num_attention_heads", 2},
                                                     {"num_key_value_heads", 1},
                                                     {"head_dim", 4}},
                                                    "config.json");
  return config;
}

BaseInfo base_info() {
  return {base_config(), "LlamaForCausalLM", at::kDouble, at::kCPU, 3, kHidden, kVocabulary};
}

enum class Variant { kEagle1, kMtp, kEagle3 };

DraftSettings settings_of(Variant variant) {
  DraftSettings settings;
  auto& a = settings.architecture;
  a.rope_scaling = {{"rope_type", "default"}};
  a.hidden_size = a.draft_hidden_size = kHidden;
  a.vocab_size = a.draft_vocab_size = kVocabulary;
  a.intermediate_size = 12;
  a.num_attention_heads = 2;
  a.num_key_value_heads = 1;
  a.head_dim = 4;
  a.use_last_layernorm = true;
  a.use_aux_hidden_state = variant == Variant::kEagle3;
  a.use_mtp_layernorm = variant == Variant::kMtp;
  if (variant == Variant::kEagle3) settings.aux_layer_ids = {1};
  settings.loss_decay_factor = 0.8;
  return settings;
}

std::shared_ptr<EagleDraft> draft_of(const DraftSettings& settings) {
  auto draft = std::make_shared<EagleDraft>(base_info(), settings);
  const at::NoGradGuard no_grad;
  for (auto& item : draft->named_parameters()) {
    const bool is_norm = item.key().find("norm") != std::string::npos;
    const auto seed = std::hash<std::string>{}(item.key()) % 1000;
    item.value().copy_(random(item.value().sizes(), seed) * 0.4 + (is_norm ? 1.0 : 0.0));
  }
  return draft;
}

TrainBatch batch_of(int64_t length = kLength) {
  TrainBatch batch;
  batch.input_ids = random_ids({kBatch, length}, kVocabulary, 5);
  return batch;
}

struct Base : RandomBase {
  explicit Base(const TrainBatch& batch) : RandomBase(batch.input_ids, kVocabulary, kHidden, {1}) {}
};

using Recorded = std::map<std::string, at::Tensor>;

Recorded recorded(EagleDraft& draft, const BaseOutputs& base, TrainBatch batch) {
  Recorded results;
  batch.recorder = [&](const std::string& name, const at::Tensor& tensor) {
    results[name] = tensor.detach();
  };
  draft.loss(base, batch);
  return results;
}

void set(EagleDraft& draft, const std::string& name, const at::Tensor& value) {
  const at::NoGradGuard no_grad;
  draft.named_parameters()[name].copy_(value);
}

at::Tensor get(EagleDraft& draft, const std::string& name) {
  return draft.named_parameters()[name].detach();
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight) {
  return weight * x / (x.square().mean(-1, true) + 1e-5).sqrt();
}

void check_same_loss(const DraftLoss& actual, const DraftLoss& expected, double tolerance = 1e-9) {
  CHECK_CLOSE(actual.total, expected.total, tolerance);
  REQUIRE(actual.steps.size() == expected.steps.size());
  for (size_t i = 0; i < actual.steps.size(); ++i) {
    CHECK(actual.steps[i].name == expected.steps[i].name);
    CHECK_CLOSE(actual.steps[i].loss, expected.steps[i].loss, tolerance);
    CHECK_CLOSE(actual.steps[i].accuracy, expected.steps[i].accuracy, tolerance);
    CHECK_CLOSE(actual.steps[i].overlap, expected.steps[i].overlap, tolerance);
    CHECK_CLOSE(actual.steps[i].count, expected.steps[i].count, 0.0);
  }
}

// A draft whose merging passes the state on, given what another draft's merging should compute.
TEST_CASE("EAGLE-1 and EAGLE-MTP merge the next token's embedding with the last state") {
  const auto batch = batch_of();
  for (const auto variant : {Variant::kEagle1, Variant::kMtp}) {
    CAPTURE(static_cast<int>(variant));
    auto settings = settings_of(variant);
    settings.ttt_steps = 1;
    const auto draft = draft_of(settings);
    const auto plain = draft_of([&] {
      auto simple = settings_of(Variant::kEagle1);
      simple.ttt_steps = 1;
      return simple;
    }());
    set(*plain, "fc.weight",
        at::cat({at::zeros({kHidden, kHidden}), at::eye(kHidden)}, 1).to(at::kDouble));
    const Base base(batch), merged(batch);
    auto e = base.outputs.input_embeddings.roll(-1, 1), h = base.outputs.last_hidden;
    if (variant == Variant::kMtp) {
      e = rms_norm(e, get(*draft, "enorm.weight"));
      h = rms_norm(h, get(*draft, "hnorm.weight"));
    }
    auto input = merged.outputs;
    input.last_hidden = at::linear(at::cat({e, h}, -1), get(*draft, "fc.weight"));
    const auto actual = recorded(*draft, base.outputs, batch);
    const auto expected = recorded(*plain, input, batch);
    CHECK_CLOSE(actual.at("logits.step_0"), expected.at("logits.step_0"), 1e-9);
    CHECK(actual.at("logits.step_0").abs().max().item<double>() > 0.1);
  }
}

// The middle element of each parameter.
void check_middle_gradients(EagleDraft& draft, const BaseOutputs& base, const TrainBatch& batch) {
  const auto parameters = draft.parameters();
  const auto gradients = torch::autograd::grad({draft.loss(base, batch).total}, parameters);
  const at::NoGradGuard no_grad;
  const auto total = [&] { return draft.loss(base, batch).total.item<double>(); };
  for (size_t i = 0; i < parameters.size(); ++i) {
    CAPTURE(draft.named_parameters().keys()[i]);
    const int64_t middle = parameters[i].numel() / 2;
    auto* value = parameters[i].data_ptr<double>() + middle;
    const double kept = *value;
    *value = kept + 1e-5;
    const double above = total();
    *value = kept - 1e-5;
    const double below = total();
    *value = kept;
    const double actual = gradients[i].contiguous().data_ptr<double>()[middle];
    CHECK(std::abs(actual - (above - below) / 2e-5) <= 1e-7);
  }
}

TEST_CASE("every variant's gradients equal finite differences over its steps") {
  auto batch = batch_of(5);
  batch.extras["mix.rand.step_0"] = random({kBatch, 5}, 77);
  const Base base(batch);
  for (const auto variant : {Variant::kEagle1, Variant::kMtp, Variant::kEagle3}) {
    for (const bool mixes : {false, true}) {
      CAPTURE(static_cast<int>(variant));
      CAPTURE(mixes);
      auto settings = settings_of(variant);
      settings.ttt_steps = 2;
      settings.mixes_hidden_states = mixes;
      settings.architecture.parallel_draft_step = 2;
      for (const auto recompute :
           {ops::Recompute::kNothing, ops::Recompute::kElementwise, ops::Recompute::kProducts}) {
        batch.recompute = recompute;
        batch.most_kept = std::numeric_limits<int64_t>::max();
        check_middle_gradients(*draft_of(settings), base.outputs, batch);
      }
      batch.recompute = ops::Recompute::kElementwise;
      batch.most_kept = kBatch * 5 * 2 * 12 * int64_t{sizeof(double)};  // of one step's products
      check_middle_gradients(*draft_of(settings), base.outputs, batch);
    }
  }
}

TEST_CASE("under the numerics of 0.47 the embeddings are not read, and there is no fc") {
  auto settings = settings_of(Variant::kMtp);
  settings.numerics = eagle::Numerics::parse("0.47");
  const auto draft = draft_of(settings);
  CHECK_FALSE(draft->named_parameters().contains("fc.weight"));
  CHECK_FALSE(draft->named_parameters().contains("enorm.weight"));
  const auto batch = batch_of();
  const Base base(batch);
  auto other = base.outputs;
  other.input_embeddings = random(other.input_embeddings.sizes(), 99);
  check_same_loss(draft->loss(base.outputs, batch), draft->loss(other, batch));
}

TEST_CASE("mixing replaces the chosen positions by the step before's output") {
  auto settings = settings_of(Variant::kEagle3);
  settings.ttt_steps = 2;
  settings.mixes_hidden_states = true;
  auto batch = batch_of();
  const auto uniforms = random({kBatch, kLength}, 70);
  batch.extras["mix.rand.step_0"] = uniforms;
  const Base base(batch);
  for (const bool wraps : {false, true}) {
    CAPTURE(wraps);
    settings.numerics.wraps_last_position = wraps;
    const auto draft = draft_of(settings);
    const auto actual = recorded(*draft, base.outputs, batch);
    const auto first = actual.at("draft_input_hidden.step_0");
    const auto second = actual.at("draft_input_hidden.step_1");
    const auto output = actual.at("draft_prenorm.step_0");
    int64_t replaced = 0;
    for (int64_t b = 0; b < kBatch; ++b) {
      for (int64_t q = 0; q < kLength; ++q) {
        CAPTURE(q);
        const auto rank = uniforms[b].lt(uniforms[b][q]).sum().item<int64_t>();
        if (rank >= kLength / 2) {
          CHECK_CLOSE(second[b][q], first[b][q], 0.0);
          continue;
        }
        ++replaced;
        if (q > 0) CHECK_CLOSE(second[b][q], output[b][q - 1], 0.0);
        if (q == 0) CHECK(second[b][q].eq(0).all().item<bool>() == !wraps);
      }
    }
    CHECK(replaced == kBatch * (kLength / 2));
    // The second step is a pass of its own over the mixed states.
    auto single = settings;
    single.ttt_steps = 1;
    const auto again = draft_of(single);
    set(*again, "fc.weight", at::eye(kHidden));
    auto mixed = base.outputs;
    mixed.layer_outputs[1] = second;
    CHECK_CLOSE(actual.at("logits.step_1").slice(1, 1),
                recorded(*again, mixed, batch).at("logits.step_0").slice(1, 1), 1e-9);
  }
  batch.extras["mix.rand.step_0"] = random({kBatch, kLength - 1}, 70);
  CHECK_CONTAINS(
      failure(ErrorCode::kInvalidData, [&] { draft_of(settings)->loss(base.outputs, batch); }),
      "'mix.rand.step_0' must have the shape of input_ids [2,7]");
}

TEST_CASE("mixing draws from the generator and so repeats with its seed") {
  auto settings = settings_of(Variant::kEagle3);
  settings.mixes_hidden_states = true;
  const auto draft = draft_of(settings);
  const auto batch = batch_of();
  const Base base(batch);
  const auto total = [&](uint64_t seed) {
    at::manual_seed(seed);
    return draft->loss(base.outputs, batch).total.item<double>();
  };
  const double first = total(1);
  CHECK(total(1) == first);
  CHECK(total(2) != first);
}

// Row p of stored logits that are sure of the next token.
at::Tensor certain_logits(const TrainBatch& batch) {
  auto logits = at::zeros({kBatch, kLength, kVocabulary}, at::kDouble);
  return logits.scatter(2, batch.input_ids.roll(-1, 1).unsqueeze(-1), 1e4);
}

TEST_CASE("hard labels are a teacher that is sure of the tokens") {
  for (const int64_t parallel : {1, 3}) {
    auto settings = settings_of(Variant::kEagle3);
    settings.architecture.parallel_draft_step = parallel;
    auto hard = settings;
    hard.trains_on_tokens = true;
    auto batch = batch_of();
    batch.loss_mask = random_mask({kBatch, kLength}, 0.7, 3).to(at::kLong);
    const Base base(batch);
    auto certain = base.outputs;
    certain.logits = certain_logits(batch);
    check_same_loss(draft_of(hard)->loss(base.outputs, batch),
                    draft_of(settings)->loss(certain, batch));
  }
}

TEST_CASE("stored logits are the teacher, whatever the head") {
  for (const bool reduced : {false, true}) {
    CAPTURE(reduced);
    auto settings = settings_of(Variant::kEagle3);
    if (reduced) settings.architecture.draft_vocab_size = 4;
    const auto draft = draft_of(settings);
    if (reduced) draft->set_draft_vocabulary(at::tensor({0, 3, 4, 9}, at::kLong));
    auto batch = batch_of();
    batch.measure_acceptance = true;
    const Base base(batch);
    auto stored = base.outputs;
    stored.logits = base.head->logits(base.outputs.last_hidden);
    stored.last_hidden = random(stored.last_hidden.sizes(), 55);
    check_same_loss(draft->loss(stored, batch), draft->loss(base.outputs, batch));
  }
}

// A parallel head's rows against the rule written out, for a mask that differs at every position.
TEST_CASE("a parallel head is gated by the token it predicts, and by the reference by the next") {
  const auto batch = [&] {
    auto masked = batch_of();
    masked.loss_mask = random_mask({kBatch, kLength}, 0.6, 11).to(at::kLong);
    return masked;
  }();
  for (const bool successor : {false, true}) {
    for (const int64_t head : {0, 1, 2}) {
      CAPTURE(successor);
      CAPTURE(head);
      eagle::Numerics numerics;
      numerics.mask_gates_successor = successor;
      const auto rows = eagle::trained_rows(batch, numerics, head);
      auto expected = at::zeros({kBatch, kLength}, at::kLong), actual = at::zeros_like(expected);
      for (int64_t b = 0; b < kBatch; ++b) {
        for (int64_t q = 0; q < kLength - 1 - head; ++q) {
          const int64_t gate = successor ? q + 1 : q + 2 + head;
          if (gate < kLength) expected[b][q] = batch.loss_mask[b][gate];
        }
      }
      for (int64_t n = 0; n < rows.position.size(0); ++n) {
        actual[rows.sequence[n].item<int64_t>()][rows.position[n].item<int64_t>()] = 1;
      }
      CHECK(at::equal(actual, expected));
      if (successor) continue;
      const auto tokens = eagle::predicted_tokens(batch, rows, head);
      for (int64_t n = 0; n < rows.position.size(0); ++n) {
        const auto place = rows.position[n].item<int64_t>() + 2 + head;
        CHECK(tokens[n].equal(batch.input_ids[rows.sequence[n].item<int64_t>()][place]));
      }
    }
  }
}

TEST_CASE("parallel heads add their steps, weighted by how far they look") {
  auto settings = settings_of(Variant::kEagle3);
  settings.architecture.parallel_draft_step = 3;
  settings.architecture.parallel_draft_heads_num_layers = 2;
  const auto draft = draft_of(settings);
  CHECK(draft->named_parameters().contains("parallel_draft_heads.medusa_heads.1.1.linear.bias"));
  CHECK_FALSE(
      draft->named_parameters().contains("parallel_draft_heads.medusa_heads.2.0.linear.bias"));
  const auto batch = batch_of();
  const Base base(batch);
  const auto loss = draft->loss(base.outputs, batch);
  REQUIRE(loss.steps.size() == 9);
  double total = 0;
  for (int64_t head = 0; head < 3; ++head) {
    for (int64_t k = 0; k < 3; ++k) {
      const auto& step = loss.steps[static_cast<size_t>(head * 3 + k)];
      CHECK(step.name == "parallel_" + std::to_string(head) + "_step_" + std::to_string(k));
      total += step.loss.item<double>() * std::pow(0.8, static_cast<double>(head + k));
    }
  }
  CHECK(std::abs(loss.total.item<double>() - total) < 1e-5);  // the weights are float32
  const auto seen = recorded(*draft, base.outputs, batch);
  auto rows = rms_norm(seen.at("draft_prenorm.step_1"), get(*draft, "norm.weight"));
  for (const int64_t j : {0, 1}) {
    const auto block = "parallel_draft_heads.medusa_heads.1." + std::to_string(j) + ".linear.";
    const auto inner = at::linear(rows, get(*draft, block + "weight"), get(*draft, block + "bias"));
    rows = rows + inner * inner.sigmoid();
  }
  const auto logits = at::linear(rows, get(*draft, "parallel_draft_heads.lm_head.weight"));
  CHECK_CLOSE(seen.at("logits.parallel_2_step_1").slice(1, 1, kLength - 1),
              logits.slice(1, 1, kLength - 1), 1e-9);
}

Json small(Json extra = Json::object(), Json config = Json::object()) {
  Json architecture = {{"intermediate_size", 8},
                       {"num_attention_heads", 2},
                       {"num_key_value_heads", 1},
                       {"head_dim", 4}};
  architecture.update(extra);
  config["eagle_architecture_config"] = architecture;
  return config;
}

Conversion convert(const Json& config, const std::string& numerics = "") {
  auto base = base_info();
  base.reference_numerics = numerics;
  return eagle::EagleMode().convert(base, config);
}

TEST_CASE("offline conversions drop the decoder layers") {
  const auto conversion = convert(small(Json::object(), {{"eagle_offline", true}}));
  CHECK((conversion.base_edits ==
         std::vector<BaseEdit>{BaseEdit::kFreezeParameters, BaseEdit::kDropDecoderLayers}));
}

// Where the loss is total variation a step's is what its overlap lacks to 1.
TEST_CASE("a draft is trained by the divergence that its config names") {
  for (const auto& [name, divergence] : kDivergenceNames) {
    CAPTURE(std::string(name));
    auto settings = settings_of(Variant::kEagle3);
    settings.architecture.parallel_draft_step = 2;
    settings.divergence = divergence;
    const auto batch = batch_of();
    const Base base(batch);
    const auto draft = draft_of(settings);
    const auto loss = draft->loss(base.outputs, batch);
    for (const auto& step : loss.steps) {
      const double lacking = 1.0 - step.overlap.item<double>();
      const bool is_lacking = std::abs(step.loss.item<double>() - lacking) < 1e-4;
      CHECK(is_lacking == (divergence == Divergence::kTotalVariation));
      CHECK(step.loss.item<double>() > 0.0);
    }
    const auto parameters = draft->parameters();
    for (const auto& gradient :
         torch::autograd::grad({loss.total}, parameters, {}, {}, false, true)) {
      if (gradient.defined()) CHECK(gradient.abs().max().item<double>() > 0.0);
    }
    const auto converted = convert(small(Json::object(), {{"eagle_loss", std::string(name)}}));
    CHECK(dynamic_cast<EagleDraft&>(*converted.draft).settings().divergence == divergence);
  }
}

TEST_CASE("combinations that cannot be computed are refused with the reason") {
  const auto refused = [](const Json& config, const std::string& numerics = "") {
    return failure(ErrorCode::kUnsupported, [&] { convert(config, numerics); });
  };
  CHECK_CONTAINS(
      refused(small(Json::object(), {{"eagle_offline", true}, {"eagle_freeze_base_model", false}})),
      "not there to be trained");
  CHECK_CONTAINS(
      refused(small({{"draft_vocab_size", 4}}, {{"eagle_self_logit_distillation", false}})),
      "cannot be a target");
  const Json other = {{"eagle_loss", "lk"}};
  CHECK_CONTAINS(refused(small(Json::object(),
                               {{"eagle_loss", "lk"}, {"eagle_self_logit_distillation", false}})),
                 "are no distribution");
  CHECK_CONTAINS(refused(small(Json::object(), other), "0.47"), "ModelOpt's loss is cross_entropy");
  CHECK_NOTHROW(convert(small(Json::object(), other)));
  CHECK_CONTAINS(refused(small(Json::object(), {{"eagle_mix_hidden_states", true}}), "0.42"),
                 "ModelOpt 0.42");
  CHECK_NOTHROW(convert(small(Json::object(), {{"eagle_mix_hidden_states", true}}), "0.47"));
}

TEST_CASE("the numerics of 0.42 bring its steps, its rope and no export rope") {
  const auto config = convert(small({{"use_aux_hidden_state", false}}), "0.42").config;
  CHECK(config["eagle_ttt_steps"] == 4);
  CHECK(config["eagle_export_rope_scaling"] == Json::object());
  CHECK(config["eagle_architecture_config"]["rope_theta"] == 500000.0);
  CHECK(config["eagle_architecture_config"]["rope_scaling"]["rope_type"] == "llama3");
  const auto own = convert(small({{"rope_scaling", {{"rope_type", "default"}}}}), "0.42").config;
  CHECK(own["eagle_architecture_config"]["rope_scaling"]["rope_type"] == "default");
}

TEST_CASE("settings without an effect are noted once, with the reason") {
  const auto notes = [](const Json& config, const std::string& numerics) {
    return convert(config, numerics).notes;
  };
  using Notes = std::vector<std::string>;
  CHECK(notes(small(), "") == Notes{});
  CHECK(notes(small(Json::object(), {{"eagle_self_logit_distillation", false}}), "0.47") ==
        Notes{"eagle_self_logit_distillation=false has no effect under reference numerics"});
  CHECK(notes(small(Json::object(), {{"eagle_ttt_steps", 2}}), "0.42") ==
        Notes{"eagle_ttt_steps has no effect: ModelOpt 0.42 always runs 4 steps"});
  CHECK(notes(small({{"parallel_draft_step", 2}}), "0.47") ==
        Notes{"parallel_draft_step has no effect under the numerics of ModelOpt 0.47"});
  CHECK(notes(small({{"parallel_draft_step", 2}}), "") == Notes{});
  CHECK(notes(small({{"use_aux_hidden_state", false}}), "0.47").size() == 1);
  CHECK(notes(small({{"use_mtp_layernorm", true}}), "").size() == 1);
}

TEST_CASE("the EAGLE-MTP preset is sized like the base") {
  for (const auto& preset : eagle::EagleMode().presets()) {
    if (preset.name != "EAGLE_MTP_DEFAULT_CFG") continue;
    const auto conversion = convert(eagle::eagle_schema().resolve(preset.overrides));
    const auto& architecture = conversion.config["eagle_architecture_config"];
    CHECK(architecture["intermediate_size"] == 12);
    CHECK(architecture["num_attention_heads"] == 2);
    CHECK(architecture["head_dim"] == 4);
    CHECK(conversion.draft->named_parameters().contains("hnorm.weight"));
    CHECK(conversion.draft->hidden_states_needed().layer_outputs.empty());
  }
}

}  // namespace
}  // namespace outrider::testing::variant_tests
