#include "attached.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>

#include "bound_tensors.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/model/language_model_loss.h"
#include "outrider/model/prepared_batch.h"

namespace outrider::python {
namespace {

namespace py = pybind11;

at::Tensor metrics_of(const DraftLoss& loss) {
  std::vector<at::Tensor> columns;
  for (const auto& step : loss.steps) {
    std::vector<at::Tensor> values;
    for (const auto& value : {step.loss, step.accuracy, step.overlap, step.count}) {
      values.push_back(value.defined() ? value.detach().to(at::kFloat)
                                       : at::zeros({}, loss.total.options().dtype(at::kFloat)));
    }
    columns.push_back(at::stack(values));
  }
  return columns.empty() ? at::zeros({4, 0}) : at::stack(columns, 1);
}

}  // namespace

BaseOutputs PassOutputs::outputs() const {
  BaseOutputs outputs{
      .head = std::make_shared<const LmHead>(embedding_weight.value(), head_weight.value())};
  outputs.input_embeddings = input_embeddings.value_or(at::Tensor());
  outputs.layer_outputs = layer_outputs;
  outputs.last_hidden = last_hidden.value();
  outputs.last_hidden_prenorm = last_hidden_prenorm.value_or(at::Tensor());
  outputs.carries_gradient = carries_gradient;
  return outputs;
}

TrainBatch Batch::batch(const HiddenStateRequest& request) const {
  TrainBatch batch;
  batch.input_ids = input_ids.value();
  batch.attention_mask = attention_mask.value_or(at::Tensor());
  batch.position_ids = position_ids.value_or(at::Tensor());
  batch.loss_mask = loss_mask.value_or(at::Tensor());
  batch.labels = labels.value_or(at::Tensor());
  batch.extras = extras;
  return prepared_batch(batch, request, /*right_padded=*/false);
}

py::dict Attached::request() const {
  const auto request = attached_.draft->hidden_states_needed();
  py::dict wanted;
  wanted["layer_outputs"] = request.layer_outputs;
  wanted["last_hidden_prenorm"] = request.last_hidden_prenorm;
  wanted["input_embeddings"] = request.input_embeddings;
  return wanted;
}

Attached Attached::copy(size_t stored_bytes) const {
  const auto base = std::make_shared<ExternalBase>(base_->config(), ExternalBase::Owner(),
                                                   base_->device(), base_->dtype());
  CheckpointMetadata record;
  record.modes = {attached_.state};
  rebuild(*base, record, stored_bytes, "the copied draft");
  return Attached(base->speculative_state().front(), base);
}

bool Attached::has(BaseEdit edit) const {
  return std::ranges::find(attached_.base_edits, edit) != attached_.base_edits.end();
}

std::vector<std::tuple<std::string, at::Tensor, bool>> Attached::tensors() const {
  std::vector<std::tuple<std::string, at::Tensor, bool>> all;
  // Python gets tensors of its own: what a slot stands for changes.
  for (const auto& [name, tensor, is_parameter] : tensors_of(*attached_.draft)) {
    all.emplace_back(name, tensor.detach(), is_parameter);
  }
  return all;
}

void Attached::release() {
  for (const auto& slot : tensors_of(*attached_.draft)) python::release(slot.tensor);
}

void Attached::bind(const std::vector<at::Tensor>& tensors) {
  const auto slots = tensors_of(*attached_.draft);
  if (slots.size() != tensors.size()) {
    throw Error(ErrorCode::kInternal,
                fmt::format("{} tensors for a draft with {}", tensors.size(), slots.size()));
  }
  for (size_t i = 0; i < slots.size(); ++i) python::bind(slots[i].tensor, tensors[i]);
}

std::tuple<at::Tensor, std::vector<std::string>, at::Tensor> Attached::loss(const PassOutputs& base,
                                                                            const Batch& batch,
                                                                            bool training) {
  const py::gil_scoped_release released;
  const auto& draft = attached_.draft;
  draft->train(training);
  const auto result = draft->loss(base.outputs(), batch.batch(draft->hidden_states_needed()));
  std::vector<std::string> names;
  for (const auto& step : result.steps) names.push_back(step.name);
  return {result.total, std::move(names), metrics_of(result)};
}

at::Tensor lm_loss(const PassOutputs& base, const Batch& batch, bool labels_stand_alone) {
  const py::gil_scoped_release released;
  return language_model_loss(base.outputs(), batch.batch({}), labels_stand_alone);
}

}  // namespace outrider::python
