#include "modelopt_record.h"

#include <algorithm>
#include <string>
#include <vector>

#include "config/eagle_schema.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider::eagle {
namespace {

// What ModelOpt hands to a Hugging Face config class beside the draft's own keys, and that has no
// meaning in a draft:
constexpr const char* kMeaningless[] = {
    "attn_implementation",  "_attn_implementation",  // which kernel computes the same attention
    "architectures",        "model_type",
    "transformers_version", "dtype",
    "_name_or_path",        // descriptions
    "tie_word_embeddings",  // the draft has no embeddings; has_lm_head decides about its head
    "bos_token_id",         "eos_token_id",
    "pad_token_id",         "use_cache",  // of generation
    "output_attentions",    "output_hidden_states",
    "return_dict"};  // of what forward() returns

// Fields of EagleConfig that 0.42 does not have. Where an old record lacks one, the release behaved
// as the value here, which is not always the field's later default.
struct LaterField {
  const char* name;
  Json (*before)();
};
constexpr Json (*kDefault)() = nullptr;
constexpr LaterField kLaterFields[] = {{"eagle_ttt_steps", [] { return Json(4); }},
                                       {"eagle_export_rope_scaling", [] { return Json::object(); }},
                                       {"eagle_mix_hidden_states", kDefault},
                                       {"eagle_use_torch_compile", kDefault},
                                       {"eagle_enable_nvtx", kDefault},
                                       {"eagle_base_lora", kDefault},
                                       {"eagle_base_lora_rank", kDefault},
                                       {"eagle_base_lora_alpha", kDefault},
                                       {"eagle_base_lora_target_modules", kDefault},
                                       {"eagle_base_lora_preservation_loss_weight", kDefault},
                                       {"eagle_base_lora_warmup_steps", kDefault},
                                       {"eagle_base_lora_start_layer", kDefault},
                                       {"eagle_base_lora_logits_detach_prob", kDefault}};

bool is_meaningless(const std::string& key) {
  return std::any_of(std::begin(kMeaningless), std::end(kMeaningless),
                     [&](const char* known) { return key == known; });
}

}  // namespace

void refuse_unread_keys(const Json& architecture) {
  std::vector<std::string> known, unread;
  for (const auto& field : architecture_schema().fields()) known.push_back(field.name);
  for (const auto& [key, value] : architecture.items()) {
    const bool is_read = std::find(known.begin(), known.end(), key) != known.end();
    if (!is_read && !is_meaningless(key)) unread.push_back(in_quotes(key, 60));
  }
  if (unread.empty()) return;
  if (unread.size() > 12) unread.resize(12);
  throw Error(
      ErrorCode::kInvalidConfig,
      "eagle_architecture_config has keys that Outrider does not know: " + join(unread, ", "),
      "the draft may compute with them in ModelOpt, so that it cannot be restored faithfully");
}

Json config_of_modelopt(Json config, const std::string& /*release*/) {
  for (const auto& field : kLaterFields) {
    if (field.before) config.emplace(field.name, field.before());
  }
  return config;
}

Json config_for_modelopt(Json config, const std::string& release) {
  if (release != "0.42") return config;
  for (const auto& field : kLaterFields) config.erase(field.name);
  auto& architecture = config.at("eagle_architecture_config");
  for (const char* key : {"hidden_size", "vocab_size", "max_position_embeddings"}) {
    architecture.erase(key);
  }
  architecture.at("rope_scaling").erase("rope_theta");
  return config;
}

}  // namespace outrider::eagle
