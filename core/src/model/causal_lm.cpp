#include "outrider/model/causal_lm.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "model/stored_base_outputs.h"
#include "outrider/error.h"
#include "outrider/ops/streaming_cross_entropy.h"
#include "outrider/text.h"

namespace outrider {
namespace {

void check_shapes(const TrainBatch& input) {
  if (!input.input_ids.defined() || input.input_ids.dim() != 2 || input.input_ids.numel() == 0) {
    throw Error(ErrorCode::kInvalidArgument, "input_ids must be [B,S] with at least one token");
  }
  const std::pair<const char*, const at::Tensor&> others[] = {
      {"attention_mask", input.attention_mask},
      {"position_ids", input.position_ids},
      {"loss_mask", input.loss_mask},
      {"labels", input.labels},
      {"document_ids", input.document_ids}};
  for (const auto& [name, tensor] : others) {
    if (tensor.defined() && tensor.sizes() != input.input_ids.sizes()) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("{} is [{}], expected the shape of input_ids [{}]", name,
                      fmt::join(tensor.sizes(), ","), fmt::join(input.input_ids.sizes(), ",")));
    }
  }
}

// The base attends to everything before a token, also across documents.
void refuse_packed_rows(const TrainBatch& batch) {
  const auto& document_ids = batch.document_ids;
  if (!document_ids.defined()) return;
  auto changes = document_ids.slice(1, 1).ne(document_ids.slice(1, 0, -1));
  if (batch.attention_mask.defined()) {  // what stands in padding is of no document
    const auto seen = batch.attention_mask.ne(0);
    changes = changes & seen.slice(1, 1) & seen.slice(1, 0, -1);
  }
  const auto differs = changes.any(1).nonzero();
  if (differs.numel() == 0) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("document_ids: row {} holds more than one document, and attention across "
                          "documents is not kept out",
                          differs[0].item<int64_t>()),
              "give one document in a row");
}

// Under causal attention, padding on the right is seen by padding only.
bool is_right_padded(const at::Tensor& mask) {
  const auto starts_again =
      at::logical_and(mask.slice(1, 1), at::logical_not(mask.slice(1, 0, -1)));
  return !starts_again.any().item<bool>();
}

at::Tensor key_mask_of(const ForwardInput& input, const HiddenStateRequest& request) {
  if (!input.batch.attention_mask.defined()) return {};
  if (input.right_padded && !request.at_padding) return {};
  const auto mask = input.batch.attention_mask.ne(0);
  return request.at_padding || !is_right_padded(mask) ? mask : at::Tensor();
}

TrainBatch without_masks(TrainBatch batch) {
  batch.attention_mask = batch.loss_mask = at::Tensor();
  return batch;
}

at::Tensor language_model_loss(const BaseOutputs& base, const TrainBatch& batch) {
  const auto targets = token_targets(batch);
  const auto rows = base.last_hidden.slice(1, 0, -1).flatten(0, 1).unsqueeze(0);
  const auto labels = targets.ids.slice(1, 1).flatten();
  const auto mask = targets.mask.slice(1, 1).reshape({1, -1});
  const auto weights = mask / batch.total_count(mask.sum()).clamp_min(1.0);
  return ops::streaming_cross_entropy(rows, base.head->weight(), labels, weights).total;
}

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

at::Tensor sum_of(const std::vector<DraftLoss>& losses, const at::Tensor& lm_loss) {
  at::Tensor total = lm_loss;
  for (const auto& loss : losses) total = total.defined() ? total + loss.total : loss.total;
  return total;
}

}  // namespace

BaseView::~BaseView() = default;

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
  auto base = run_base({batch.input_ids, batch.position_ids, batch.key_mask, request});
  base.carries_gradient = trains_base;
  return base;
}

ForwardOutput CausalLM::forward(const ForwardInput& input) {
  check_shapes(input.batch);
  refuse_packed_rows(input.batch);
  auto batch = input.batch;
  batch.key_mask = key_mask_of(input, hidden_states_needed());
  const bool trains_base =
      !input.base_outputs && !has_edit(BaseEdit::kFreezeParameters) && at::GradMode::is_enabled();
  const auto base = base_outputs(input, batch, trains_base);
  ForwardOutput output;
  for (const auto& attached : speculative_state_) {
    output.draft_losses.push_back(attached.draft->loss(base, batch));
  }
  if (input.want_lm_loss) {
    const bool only_labels = batch.labels.defined() && labels_stand_alone(speculative_state_);
    output.lm_loss = language_model_loss(base, only_labels ? without_masks(batch) : batch);
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
