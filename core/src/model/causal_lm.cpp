#include "outrider/model/causal_lm.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "model/sequence_division.h"
#include "model/stored_base_outputs.h"
#include "outrider/error.h"
#include "outrider/model/language_model_loss.h"
#include "outrider/model/prepared_batch.h"
#include "outrider/problems.h"
#include "outrider/text.h"

namespace outrider {
namespace {

void record_base(const TensorRecorder& record, const BaseOutputs& base, int64_t num_layers) {
  record("base.last_hidden", base.last_hidden);
  record("base.logits", base.head->logits(base.last_hidden));
  if (base.input_embeddings.defined()) record("hidden_states.0", base.input_embeddings);
  for (const auto& [layer, hidden] : base.layer_outputs) {
    const bool is_last = layer + 1 == num_layers;
    if (!is_last) record(fmt::format("hidden_states.{}", layer + 1), hidden);
  }
  record(fmt::format("hidden_states.{}", num_layers), base.last_hidden);
  if (base.last_hidden_prenorm.defined()) {
    record("hidden_states.last_prenorm", base.last_hidden_prenorm);
  }
}

// Everything, for someone who looks at a pass.
HiddenStateRequest full_request(int64_t num_layers) {
  HiddenStateRequest request;
  for (int64_t i = 0; i < num_layers; ++i) request.layer_outputs.push_back(i);
  request.last_hidden_prenorm = true;
  return request;
}

bool contains(const std::vector<BaseEdit>& edits, BaseEdit edit) {
  return std::find(edits.begin(), edits.end(), edit) != edits.end();
}

bool labels_stand_alone(const SpeculativeState& state) {
  return std::ranges::any_of(state, &AttachedDraft::labels_stand_alone);
}

void require_heeded_documents(const CausalLM& model, const ForwardInput& input) {
  Problems problems;
  problems.add_when(!model.heeds_documents(), "a base that attends across them");
  problems.add_when(input.base_outputs.has_value(), "stored outputs of the base");
  for (const auto& attached : model.speculative_state()) {
    problems.add_when(!attached.draft->heeds_documents(),
                      fmt::format("'{}', as it is configured", attached.state.mode));
  }
  problems.throw_in_a_line(ErrorCode::kUnsupported, "rows of several documents do not go with",
                           "give one document in a row (train without --packing)");
}

at::Tensor sum_of(const std::vector<DraftLoss>& losses, const at::Tensor& lm_loss) {
  at::Tensor total = lm_loss;
  for (const auto& loss : losses) total = total.defined() ? total + loss.total : loss.total;
  return total;
}

}  // namespace

BaseView::~BaseView() = default;
LayerSupply::~LayerSupply() = default;

CausalLM::CausalLM(ModelConfig config) : config_(std::move(config)) {}
CausalLM::~CausalLM() = default;

BaseInfo CausalLM::base_info() const {
  return {config_,           config_.architecture,      dtype(),
          device(),          config_.num_hidden_layers, config_.hidden_size,
          config_.vocab_size};
}

at::Device CausalLM::device() const { return head().device(); }
at::ScalarType CausalLM::dtype() const { return head().dtype(); }

at::Tensor CausalLM::parameter(const std::string& hugging_face_name) const {
  const auto all = named_parameters();
  const auto* found = all.find(hugging_face_name);
  return found ? *found : at::Tensor();
}

std::vector<std::shared_ptr<torch::nn::Module>> CausalLM::decoder_layers() const { return {}; }
// NOLINTNEXTLINE(performance-unnecessary-value-param): a base that has layers supplied keeps it.
bool CausalLM::supply_layers(std::shared_ptr<LayerSupply>) { return false; }
std::optional<at::Tensor> CausalLM::continue_greedily(nn::KvCache&, const at::Tensor&, int64_t) {
  return std::nullopt;
}

bool CausalLM::divides_sequences() const { return false; }
bool CausalLM::heeds_documents() const { return false; }

bool CausalLM::compute_in(at::ScalarType type) { return type == dtype(); }

bool CausalLM::has_edit(BaseEdit edit) const {
  return std::any_of(speculative_state_.begin(), speculative_state_.end(),
                     [edit](const auto& attached) { return contains(attached.base_edits, edit); });
}

HiddenStateRequest CausalLM::hidden_states_needed() const {
  HiddenStateRequest all{.layer_outputs = {},
                         .last_hidden = true,
                         .last_hidden_prenorm = false,
                         .input_embeddings = false};
  for (const auto& attached : speculative_state_) {
    const auto one = attached.draft->hidden_states_needed();
    all.layer_outputs.insert(all.layer_outputs.end(), one.layer_outputs.begin(),
                             one.layer_outputs.end());
    all.last_hidden_prenorm |= one.last_hidden_prenorm;
    all.input_embeddings |= one.input_embeddings;
    all.at_padding |= one.at_padding;
  }
  return all;
}

BaseOutputs CausalLM::base_outputs(const ForwardInput& input, const TrainBatch& batch,
                                   bool trains_base) {
  if (input.base_outputs) {
    return base_outputs_from(*input.base_outputs, batch.input_ids, *this, hidden_states_needed());
  }
  if (has_edit(BaseEdit::kDropDecoderLayers)) {
    throw Error(ErrorCode::kInvalidArgument,
                "the base has no decoder layers (it was converted for offline training), and the "
                "batch holds no base outputs",
                "give base_model_outputs.base_model_hidden_states and the others with the batch");
  }
  const auto request =
      batch.recorder ? full_request(config_.num_hidden_layers) : hidden_states_needed();
  const at::AutoGradMode mode(trains_base);
  const BasePass pass{batch.input_ids, batch.position_ids, batch.key_mask, request,
                      batch.documents};
  if (batch.part) return shared_base_pass(*this, pass, *batch.part);
  auto base = run_base(pass);
  base.carries_gradient = trains_base;
  return base;
}

/// What the drafts see.
TrainBatch CausalLM::batch_of(const ForwardInput& input) const {
  auto batch = prepared_batch(input.batch, hidden_states_needed(), input.right_padded);
  if (batch.documents) require_heeded_documents(*this, input);
  if (!input.sequence_share) return batch;
  require_shared_training(*this, input, batch);
  return own_part(batch, input.sequence_share, positions_ahead(*this));
}

ForwardOutput CausalLM::forward(const ForwardInput& input) {
  const auto batch = batch_of(input);
  const bool trains_base =
      !input.base_outputs && !has_edit(BaseEdit::kFreezeParameters) && at::GradMode::is_enabled();
  const auto base = base_outputs(input, batch, trains_base);
  ForwardOutput output;
  for (const auto& attached : speculative_state_) {
    output.draft_losses.push_back(attached.draft->loss(base, batch));
  }
  if (input.want_lm_loss) {
    output.lm_loss = language_model_loss(base, batch, labels_stand_alone(speculative_state_));
  }
  output.loss = sum_of(output.draft_losses, trains_base ? output.lm_loss : at::Tensor());
  if (input.want_logits) output.logits = base.head->logits(base.last_hidden);
  if (batch.recorder) record_base(batch.recorder, base, config_.num_hidden_layers);
  return output;
}

void CausalLM::check_attachable(const std::vector<const Conversion*>& conversions) const {
  std::set<std::string> taken;
  for (const auto& item : named_children()) taken.insert(item.key());
  for (const auto* conversion : conversions) {
    if (taken.insert(conversion->attribute).second) continue;
    throw Error(
        ErrorCode::kAlreadyConverted,
        fmt::format("the model has a part named '{}' already: it is converted with this mode",
                    conversion->attribute),
        "start from the base model again, or attach another algorithm");
  }
}

void CausalLM::freeze_base() {
  for (auto& item : named_parameters()) {
    const bool is_draft = std::any_of(
        speculative_state_.begin(), speculative_state_.end(),
        [&](const auto& attached) { return item.key().starts_with(attached.attribute + "."); });
    if (!is_draft) item.value().requires_grad_(false);
  }
}

void CausalLM::attach(const Conversion& conversion, ModeState state) {
  check_attachable({&conversion});
  const auto& edits = conversion.base_edits;
  if (contains(edits, BaseEdit::kFreezeParameters)) freeze_base();
  register_module(conversion.attribute, conversion.draft);
  if (contains(edits, BaseEdit::kDropDecoderLayers) && !has_edit(BaseEdit::kDropDecoderLayers)) {
    drop_decoder_layers();
  }
  speculative_state_.push_back({std::move(state), conversion.attribute, conversion.draft, edits,
                                conversion.labels_stand_alone});
}

}  // namespace outrider
