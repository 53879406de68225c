#include "vllm_format.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "foreign_export.h"
#include "foreign_import.h"
#include "foreign_rope.h"
#include "outrider/text.h"

namespace outrider::eagle {
namespace vllm_files {
namespace {

constexpr const char* kName = "vllm";
constexpr const char* kModelType = "speculators_model_type";
// The layers whose *input* is read, from 0 on: one more than the layer whose output that is.
constexpr const char* kAuxLayerIds = "eagle_aux_hidden_state_layer_ids";
constexpr int64_t kAuxLayerOffset = 1;

void refuse(const EagleDraft& draft, const Json& rope) {
  Refusals refusals(kName);
  refuse_variants(refusals, draft.settings());
  refuse_engine_rope(refusals, rope);
  refusals.finish();
}

Json verifier(const ExportContext& context) {
  return {{"name_or_path", context.base_name.empty() ? Json() : Json(context.base_name)},
          {"architectures", {context.model.config().architecture}}};
}

Json speculators_config(const ExportContext& context, const EagleDraft& draft) {
  const Json greedy = {{"proposal_type", "greedy"},
                       {"speculative_tokens", draft.settings().ttt_steps},
                       {"verifier_accept_k", 1},
                       {"accept_tolerance", 0.0}};
  return {{"algorithm", "eagle3"},
          {"proposal_methods", Json::array({greedy})},
          {"default_proposal_method", "greedy"},
          {"verifier", verifier(context)}};
}

Json layer_config(const ExportContext& context, const EagleDraft& draft, const Json& rope) {
  auto json = decoder_keys(context, draft);
  json.update(rope_keys(rope));
  json.erase("draft_vocab_size");
  json["architectures"] = {"LlamaForCausalLM"};
  return json;
}

Json config_of(const ExportContext& context, const EagleDraft& draft, const Json& rope) {
  const auto& a = draft.settings().architecture;
  std::vector<int64_t> layers;
  for (const int64_t id : draft.settings().aux_layer_ids) layers.push_back(id + kAuxLayerOffset);
  return {{"architectures", {"Eagle3Speculator"}},
          {kModelType, "eagle3"},
          {"speculators_version", "0.9.0"},
          {"speculators_config", speculators_config(context, draft)},
          {"transformer_layer_config", layer_config(context, draft, rope)},
          {"draft_vocab_size", a.draft_vocab_size},
          {kAuxLayerIds, layers},
          {"norm_before_residual", a.norm_before_residual},
          {"norm_before_fc", false},
          {"fc_norm", false},
          {"norm_output", false},
          {"target_hidden_size", target_width(a)},
          {"embed_requires_grad", a.has_embeddings},
          {"tie_word_embeddings", false},
          {"torch_dtype", dtype_name(context.model.dtype())}};
}

at::Tensor base_embedding(const LmHead& head) {
  const auto options = at::TensorOptions(at::kLong).device(head.weight().device());
  return head.embedding(at::arange(head.vocab_size(), options));
}

void write(const ExportContext& context, const std::filesystem::path& folder) {
  const auto& draft = draft_of(context, kName);
  const auto& a = draft.settings().architecture;
  const auto rope = rope_meaning(served_rope(context.draft.state.config));
  refuse(draft, rope);
  refuse_reference_numerics(context, draft, kName);
  auto tensors = draft_tensors(context, draft);
  const VocabularySizes sizes{a.vocab_size, a.draft_vocab_size};
  if (sizes.reduced()) add_vocabulary_maps(tensors, sizes);
  if (!a.has_embeddings) tensors["embed_tokens.weight"] = base_embedding(context.model.head());
  write_draft(context, tensors, config_of(context, draft, rope), folder);
}

bool probe(const std::filesystem::path& folder) {
  const auto config = probed_config(folder);
  return config.is_object() && config.contains(kModelType);
}

void check_flags(const Json& config, ConfigProblems& problems) {
  const auto residual = config.value("norm_before_residual", Json());
  problems
      .when(config.value(kModelType, Json()) != "eagle3",
            fmt::format("'{}' is {}, supported is \"eagle3\"", kModelType,
                        printable(config.value(kModelType, Json()).dump())))
      .when(!residual.is_boolean(),
            residual.is_null() ? "'norm_before_residual' is missing, which speculators reads as "
                                 "false and vLLM as true: write what the draft was trained with"
                               : "'norm_before_residual' is neither true nor false")
      .when(flag(config, "norm_before_fc", false, problems), "'norm_before_fc': a norm before fc")
      .when(flag(config, "fc_norm", false, problems), "'fc_norm': norms before fc")
      .when(flag(config, "norm_output", false, problems),
            "'norm_output': the normed state is fed back");
}

Json layer_config_in(const Json& config, ConfigProblems& problems) {
  auto layer = config.value("transformer_layer_config", Json());
  problems.when(!layer.is_object(), "'transformer_layer_config' is missing or no object");
  if (!layer.is_object()) return Json::object();
  const auto type = layer.value("model_type", Json());
  problems.when(type != "llama",
                fmt::format("'transformer_layer_config.model_type' is {}, supported "
                            "is \"llama\"",
                            printable(type.dump())));
  check_rope_spellings(layer, problems);
  layer["target_hidden_size"] = config.value("target_hidden_size", Json());
  return layer;
}

ImportedDraft read(const std::filesystem::path& folder) {
  auto files = DraftFiles::read(folder);
  ConfigProblems problems(files.origin);
  check_flags(files.config, problems);
  DecoderMeaning meaning{.decoder = layer_config_in(files.config, problems),
                         .draft_vocab_size = files.config.value("draft_vocab_size", Json())};
  meaning.aux_layer_ids = layer_ids(files.config, kAuxLayerIds, kAuxLayerOffset, problems);
  meaning.architecture["norm_before_residual"] = files.config.value("norm_before_residual", Json());
  meaning.architecture["has_embeddings"] =
      flag(files.config, "embed_requires_grad", false, problems);
  problems.finish();
  return imported_draft(
      std::move(files), std::move(meaning),
      {.has_embedding = true, .layers_key = kAuxLayerIds, .layers_offset = kAuxLayerOffset});
}

}  // namespace
}  // namespace vllm_files

ForeignFormat vllm_format() {
  using namespace vllm_files;
  return {.name = kName,
          .description = "speculators' layout, read by vLLM",
          .probe = probe,
          .write = write,
          .read = read};
}

}  // namespace outrider::eagle
