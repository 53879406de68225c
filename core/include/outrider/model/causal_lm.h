#pragma once

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/attached_draft.h"
#include "outrider/model/base_info.h"
#include "outrider/model/base_pass.h"
#include "outrider/model/base_view.h"
#include "outrider/model/conversion.h"
#include "outrider/model/layer_supply.h"
#include "outrider/model/stored_base_outputs.h"

namespace outrider {

/// A batch and what is wanted of it.
struct ForwardInput {
  /// forward() finds out the key mask itself.
  TrainBatch batch;
  std::optional<StoredBaseOutputs> base_outputs;  // read instead of running the base
  bool want_logits = false;                       // [B,S,V], only when asked for
  bool want_lm_loss = false;                      // computed from the token targets, streamed
  /// The processes that share each sequence; null: this one has whole ones. All give the same
  /// batch.
  std::shared_ptr<SequenceShare> sequence_share;
  /// The caller's word that padding is on the right only; saves looking at the mask.
  bool right_padded = false;
};

struct ForwardOutput {
  at::Tensor loss;  // what to call backward() on: draft losses, plus the LM loss if the base trains
  at::Tensor lm_loss;
  std::vector<DraftLoss> draft_losses;  // one per attached draft, in order of conversion
  at::Tensor logits;
};

using SpeculativeState = std::vector<AttachedDraft>;

/// How a model that computes in another type than it was stored in is to be saved.
struct StoredTypes {
  at::ScalarType model;                           // what config.json says
  std::map<std::string, at::ScalarType> tensors;  // where it is not the type in memory
};

/// A base model, before or after conversion. One subclass per architecture.
class OUTRIDER_API CausalLM : public torch::nn::Module, public BaseView {
 public:
  explicit CausalLM(ModelConfig config);
  ~CausalLM() override;

  /// A plain language model before conversion; adds one loss per attached draft after. One base
  /// pass serves them all.
  virtual ForwardOutput forward(const ForwardInput& input);

  virtual BaseOutputs run_base(const BasePass& pass) = 0;
  /// Goes on by itself for `steps` steps: after the tokens ids [B,1], which are not in the cache
  /// yet, the likeliest one each time. The new tokens [B,steps] int64; all but the last are
  /// committed, behind `ids`. Nothing where the base has no way faster than its passes (default).
  virtual std::optional<at::Tensor> continue_greedily(nn::KvCache& cache, const at::Tensor& ids,
                                                      int64_t steps);
  /// Whether run_base() heeds BasePass::part. Default: no.
  virtual bool divides_sequences() const;
  /// Whether run_base() heeds BasePass::documents. Default: no.
  virtual bool heeds_documents() const;
  /// Computes in `type` from here on, each parameter converted as it is used: what runs a base
  /// whose parameters do not fit into memory in that type. False where the base cannot.
  virtual bool compute_in(at::ScalarType type);
  /// In their order; empty where the base has no such layers.
  virtual std::vector<std::shared_ptr<torch::nn::Module>> decoder_layers() const;
  /// Has each decoder layer brought before its pass. False where the base cannot.
  virtual bool supply_layers(std::shared_ptr<LayerSupply> supply);
  /// Releases the decoder layers for good; run_base() must not be called afterwards.
  virtual void drop_decoder_layers() = 0;

  const ModelConfig& config() const override { return config_; }
  const SpeculativeState& speculative_state() const { return speculative_state_; }
  BaseInfo base_info() const;
  bool has_edit(BaseEdit edit) const;
  /// What all attached drafts read of the base.
  HiddenStateRequest hidden_states_needed() const;
  at::Device device() const override;
  at::ScalarType dtype() const override;
  at::Tensor parameter(const std::string& hugging_face_name) const override;
  /// The type that the model is saved in.
  at::ScalarType stored_dtype() const { return stored_types_ ? stored_types_->model : dtype(); }
  const std::optional<StoredTypes>& stored_types() const { return stored_types_; }
  void set_stored_types(StoredTypes types) { stored_types_ = std::move(types); }

  /// Which weights the base has: a hash over its stored tensors, or empty where nobody computed it.
  const std::string& weights_sha256() const { return weights_sha256_; }
  void set_weights_sha256(std::string hash) { weights_sha256_ = std::move(hash); }

  /// Throws kAlreadyConverted if an attribute is taken, by the model or twice in the list.
  void check_attachable(const std::vector<const Conversion*>& conversions) const;
  /// Commits a conversion: all of it, or nothing. Throws as check_attachable() does.
  void attach(const Conversion& conversion, ModeState state);

 private:
  TrainBatch batch_of(const ForwardInput& input) const;
  BaseOutputs base_outputs(const ForwardInput& input, const TrainBatch& batch, bool trains_base);
  void freeze_base();

  ModelConfig config_;
  std::string weights_sha256_;
  std::optional<StoredTypes> stored_types_;
  SpeculativeState speculative_state_;
};

}  // namespace outrider
