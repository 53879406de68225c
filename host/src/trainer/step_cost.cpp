#include "trainer/step_cost.h"

#include <ATen/ATen.h>
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>
#include <vector>

#include "checkpoint/model_tensors.h"
#include "data/batches.h"
#include "outrider/error.h"

namespace outrider {
namespace {

// As of the loss in ops/streaming_cross_entropy.h: the draft's logits of all steps on a GPU, and
// the base's, one for all steps of a row: three steps are assumed.
constexpr double kChunkBytes = 1 << 29, kFewestChunkRows = 4096, kOfDraftAndBase = 4.0 / 3;

constexpr double kShareToFill = 0.9, kPlentyOfMemory = 32.0 * (1 << 30);

struct Parameters {
  double base = 0.0, base_in_eight_bits = 0.0, draft = 0.0;  // bytes
  double trained = 0.0, masters = 0.0;                       // elements
  double largest = 0.0;                                      // elements of a trained one
};

// A byte for each element of a layer's matrices, and a float32 scale for each row.
double bytes_saved_in_eight_bits(const CausalLM& model) {
  double saved = 0.0;
  for (const auto& layer : model.decoder_layers()) {
    for (const auto& parameter : layer->parameters()) {
      if (parameter.dim() != 2) continue;
      saved += static_cast<double>(parameter.numel() * (parameter.element_size() - 1)) -
               4.0 * static_cast<double>(parameter.size(0));
    }
  }
  return saved;
}

Parameters parameters_of(const CausalLM& model) {
  Parameters all;
  std::set<const void*> seen;  // tied parameters have several names
  for (const auto& item : model.named_parameters()) {
    const auto& tensor = item.value();
    if (!seen.insert(tensor.unsafeGetTensorImpl()).second) continue;
    const bool is_draft = belongs_to_a_draft(model, item.key());
    (is_draft ? all.draft : all.base) += static_cast<double>(tensor.nbytes());
    if (!tensor.requires_grad()) continue;
    if (!is_draft) {
      throw Error(ErrorCode::kUnsupported,
                  "the base is trained itself, which a plan cannot predict",
                  "plan a draft of a frozen base");
    }
    const auto elements = static_cast<double>(tensor.numel());
    all.trained += elements;
    all.largest = std::max(all.largest, elements);
    if (tensor.scalar_type() != at::kFloat) all.masters += elements;
  }
  all.base_in_eight_bits = all.base - bytes_saved_in_eight_bits(model);
  return all;
}

double element_bytes(const CausalLM& model) {
  return static_cast<double>(c10::elementSize(model.dtype()));
}

double hidden_state_bytes(const CausalLM& model, const TrainingShape& shape) {
  const auto request = model.hidden_states_needed();
  const auto count = static_cast<double>(request.layer_outputs.size()) + request.last_hidden +
                     request.last_hidden_prenorm + request.input_embeddings;
  return shape.positions() * count * static_cast<double>(model.config().hidden_size) *
         element_bytes(model);
}

// Without a graph: the residual stream, what a norm made of it, and a block's products.
double base_working_bytes(const CausalLM& model, const TrainingShape& shape) {
  const auto& config = model.config();
  const auto queries = static_cast<double>(config.num_attention_heads * config.head_dim);
  const auto keys = static_cast<double>(config.num_key_value_heads * config.head_dim);
  const double attention = 3 * queries + 4 * keys;
  const double mlp = 3 * static_cast<double>(config.intermediate_size);
  return shape.positions() * element_bytes(model) *
         (2 * static_cast<double>(config.hidden_size) + std::max(attention, mlp));
}

double loss_bytes(const CausalLM& model, const AttachedDraft& attached) {
  const auto vocabulary = static_cast<double>(
      attached.state.metadata.value("draft_vocab_size", model.config().vocab_size));
  return kOfDraftAndBase *
         std::max(kChunkBytes, kFewestChunkRows * vocabulary * element_bytes(model));
}

// Of a draft that says nothing: each matrix is used once a position, its input and output are kept.
TrainingCost plain_cost(const Draft& draft, const TrainingShape& shape) {
  TrainingCost cost;
  for (const auto& parameter : draft.parameters()) {
    if (parameter.dim() != 2) continue;
    const auto out = static_cast<double>(parameter.size(0)),
               in = static_cast<double>(parameter.size(1));
    const double both =
        shape.positions() * (in + out) * static_cast<double>(parameter.element_size());
    cost.kept += both;
    cost.working = std::max(cost.working, both);
    cost.operations += shape.positions() * 6 * in * out;
  }
  return cost;
}

struct DraftCost {
  double kept = 0.0, working = 0.0, operations = 0.0;
};

DraftCost draft_cost(const CausalLM& model, const TrainingShape& shape) {
  DraftCost all;
  for (const auto& attached : model.speculative_state()) {
    const auto cost =
        attached.draft->training_cost(shape).value_or(plain_cost(*attached.draft, shape));
    all.kept += cost.kept;
    all.working = std::max({all.working, cost.working, loss_bytes(model, attached)});
    all.operations += cost.operations;
  }
  return all;
}

double matrix_elements(const torch::nn::Module& module) {
  double count = 0.0;
  for (const auto& parameter : module.parameters()) {
    if (parameter.dim() == 2) count += static_cast<double>(parameter.numel());
  }
  return count;
}

StepMemory with_slack(StepMemory memory) {
  memory.slack = kSlack * memory.total();
  memory.outside = kOutside;
  return memory;
}

}  // namespace

double StepMemory::total() const {
  return base + draft + optimizer + gradients + hidden_states + kept + working + slack + outside;
}

Json StepMemory::to_json() const {
  return {{"moment", moment},
          {"total", total()},
          {"base", base},
          {"draft", draft},
          {"optimizer", optimizer},
          {"gradients", gradients},
          {"hidden_states", hidden_states},
          {"kept", kept},
          {"working", working},
          {"slack", slack},
          {"outside", outside}};
}

// Where passes are recorded or add up, all gradients are there from the beginning; else the head's
// alone, which the loss makes, when the backward pass is at its fullest.
StepMemory memory_of(const CausalLM& model, const PlannedStep& step) {
  require_drafts(model);
  const auto parameters = parameters_of(model);
  const auto cost = draft_cost(model, step.shape);
  const double gradients = (step.accumulates ? 4 : element_bytes(model)) * parameters.trained;
  const bool has_gradients = step.accumulates || step.is_recorded;
  const double states = hidden_state_bytes(model, step.shape);
  const StepMemory always{
      .base = step.base_in_eight_bits ? parameters.base_in_eight_bits : parameters.base,
      .draft = parameters.draft,
      .optimizer = 4 * parameters.masters + 8 * parameters.trained,
      .gradients = has_gradients ? gradients : 0.0};
  auto base_pass = always, backward = always, update = always;
  base_pass.moment = "the base's pass";
  base_pass.hidden_states = states;
  base_pass.working = base_working_bytes(model, step.shape);
  backward.moment = "the backward pass";
  if (!has_gradients) backward.gradients = 4 * parameters.largest;
  backward.hidden_states = states;
  backward.kept = cost.kept;
  backward.working = cost.working;
  update.moment = "the update";
  update.gradients = gradients;
  const std::array moments{base_pass, backward, update};
  return with_slack(*std::ranges::max_element(moments, {}, &StepMemory::total));
}

int64_t room_for_products(const CausalLM& model, PlannedStep step, double device_bytes) {
  step.shape.recompute = ops::Recompute::kProducts;
  const double most = std::min(kShareToFill * device_bytes, kPlentyOfMemory);
  const double room = (most - memory_of(model, step).total()) / (1 + kSlack);
  return std::max(int64_t{0}, static_cast<int64_t>(room));
}

StepOperations operations_of(const CausalLM& model, const TrainingShape& shape) {
  const auto& config = model.config();
  const auto causal_attention =
      static_cast<double>(shape.length * config.num_attention_heads * config.head_dim);
  double elements = static_cast<double>(config.hidden_size * config.vocab_size);
  for (const auto& layer : model.decoder_layers()) {
    elements += matrix_elements(*layer) + causal_attention;
  }
  return {2 * shape.positions() * elements, draft_cost(model, shape).operations};
}

double optimizer_bytes(const CausalLM& model) {
  const auto parameters = parameters_of(model);
  return 4 * parameters.masters + 8 * parameters.trained;
}

}  // namespace outrider
