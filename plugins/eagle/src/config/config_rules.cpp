#include "config_rules.h"

#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/problems.h"
#include "outrider/text.h"

namespace outrider::eagle {
namespace {

/// Collects sentences, each under a condition.
class Sentences {
 public:
  Sentences& when(bool condition, const char* sentence) {
    if (condition) list_.emplace_back(sentence);
    return *this;
  }
  std::vector<std::string> take() { return std::move(list_); }
  void refuse() const {
    if (list_.empty()) return;
    throw Error(ErrorCode::kUnsupported,
                fmt::format("mode 'eagle' refuses this config:\n  {}", join(list_, "\n  ")),
                "docs/modes/eagle.md says what becomes of each field");
  }

 private:
  std::vector<std::string> list_;
};

}  // namespace

void refuse_values(const EagleConfig& config) {
  constexpr int64_t kMostSteps = 64;
  Problems problems;
  if (config.eagle_decoder_type != "llama" && config.eagle_decoder_type != "kimik2") {
    problems.add(fmt::format("/eagle_decoder_type: got {}, expected 'llama'",
                             in_quotes(config.eagle_decoder_type, 60)));
  }
  if (config.eagle_ttt_steps < 1 || config.eagle_ttt_steps > kMostSteps) {
    problems.add(fmt::format("/eagle_ttt_steps: got {}, expected 1 to {}", config.eagle_ttt_steps,
                             kMostSteps));
  }
  problems.throw_in_lines(ErrorCode::kInvalidConfig, "mode 'eagle' cannot convert with this config",
                          "docs/modes/eagle.md says what becomes of each field");
}

void refuse_unsupported(const EagleConfig& config) {
  Sentences()
      .when(config.eagle_decoder_type == "kimik2",
            "eagle_decoder_type=kimik2: there is no draft layer with multi-head latent attention")
      .when(config.eagle_base_lora, "eagle_base_lora=true: the base gets no low-rank adapters")
      .when(config.eagle_hidden_state_distillation,
            "eagle_hidden_state_distillation=true: ModelOpt defines no loss for it either")
      .when(config.eagle_offline && !config.eagle_freeze_base_model,
            "eagle_offline=true with eagle_freeze_base_model=false: the base's layers are not "
            "there to be trained")
      .refuse();
}

void refuse_combinations(const EagleConfig& config, const Architecture& architecture,
                         const Numerics& numerics) {
  const bool reduced = architecture.draft_vocab_size != architecture.vocab_size;
  const bool is_old = numerics.fixed_ttt_steps != 0;
  const bool other_width = architecture.draft_hidden_size != architecture.hidden_size;
  const bool is_reference = numerics.starts_at_random;
  const bool other_loss = config.eagle_loss != EagleConfig{}.eagle_loss;
  Sentences()
      .when(!config.eagle_self_logit_distillation && !numerics.always_soft_targets && reduced,
            "eagle_self_logit_distillation=false with a draft vocabulary: a token outside of it "
            "cannot be a target")
      .when(other_loss && !config.eagle_self_logit_distillation && !numerics.always_soft_targets,
            "eagle_loss with eagle_self_logit_distillation=false: the tokens themselves are no "
            "distribution, their loss is cross-entropy")
      .when(other_loss && is_reference,
            "eagle_loss with reference numerics: ModelOpt's loss is cross_entropy")
      .when(config.eagle_mix_hidden_states && is_old,
            "eagle_mix_hidden_states=true: ModelOpt 0.42 cannot do that")
      .when(other_width && !architecture.use_aux_hidden_state,
            "draft_hidden_size without use_aux_hidden_state: EAGLE-1 and EAGLE-MTP go on from the "
            "base's own state")
      .when(other_width && is_reference,
            "draft_hidden_size with reference numerics: ModelOpt's drafts have the base's width")
      .when(architecture.has_embeddings && is_reference,
            "has_embeddings=true with reference numerics: ModelOpt's drafts read the base's")
      .when(architecture.norm_before_residual && is_reference,
            "norm_before_residual=true with reference numerics: ModelOpt's drafts add to the state "
            "as it is")
      .refuse();
}

std::vector<std::string> notes_on(const EagleConfig& config, const Architecture& architecture,
                                  const Numerics& numerics) {
  return Sentences()
      .when(config.eagle_enable_nvtx, "eagle_enable_nvtx has no effect")
      .when(!config.eagle_report_acc,
            "eagle_report_acc=false has no effect: accuracies are always reported")
      .when(config.eagle_reuse_base_decoder && !numerics.reuses_base_decoder,
            "eagle_reuse_base_decoder has no effect under reference numerics")
      .when(!config.eagle_self_logit_distillation && numerics.always_soft_targets,
            "eagle_self_logit_distillation=false has no effect under reference numerics")
      .when(architecture.use_mtp_layernorm && architecture.use_aux_hidden_state,
            "use_mtp_layernorm has no effect with use_aux_hidden_state: its norms are EAGLE-MTP's")
      .when(architecture.use_mtp_layernorm && !architecture.use_aux_hidden_state &&
                !numerics.norms_mtp_inputs,
            "use_mtp_layernorm has no effect under reference numerics")
      .when(!architecture.use_aux_hidden_state && !numerics.merges_embeddings,
            "without use_aux_hidden_state ModelOpt 0.47 does not read the token embeddings")
      .when(architecture.norm_before_residual && !architecture.use_aux_hidden_state,
            "norm_before_residual has no effect without use_aux_hidden_state: it is EAGLE-3's")
      .when(architecture.parallel_draft_step > 1 && !numerics.has_parallel_heads,
            "parallel_draft_step has no effect under the numerics of ModelOpt 0.47")
      .when(numerics.fixed_ttt_steps > 0 && config.eagle_ttt_steps != numerics.fixed_ttt_steps &&
                config.eagle_ttt_steps != EagleConfig{}.eagle_ttt_steps,
            "eagle_ttt_steps has no effect: ModelOpt 0.42 always runs 4 steps")
      .take();
}

}  // namespace outrider::eagle
