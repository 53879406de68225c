#include "external_model.h"

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "outrider/host/checkpoint.h"
#include "outrider/host/convert.h"

namespace outrider::python {
namespace {

namespace py = pybind11;

std::pair<at::Tensor, at::Tensor> embedding_and_head(const py::object& owner) {
  return owner.attr("head")().cast<std::pair<at::Tensor, at::Tensor>>();
}

at::Tensor parameter_or_undefined(const py::object& owner, const std::string& name) {
  const auto found = owner.attr("parameter")(name);
  return found.is_none() ? at::Tensor() : found.cast<at::Tensor>();
}

ExternalBase::Owner asking(const py::object& owner) {
  return {.head =
              [owner] {
                auto [embedding, head] = embedding_and_head(owner);
                return LmHead(std::move(embedding), std::move(head));
              },
          .final_norm =
              [owner](const at::Tensor& hidden) {
                return owner.attr("final_norm")(hidden).cast<at::Tensor>();
              },
          .parameter =
              [owner](const std::string& name) { return parameter_or_undefined(owner, name); }};
}

}  // namespace

ExternalModel::ExternalModel(const std::string& config, const std::string& origin, py::object owner,
                             at::Device device, at::ScalarType dtype)
    : base_(std::make_shared<ExternalBase>(ModelConfig::from_json(Json::parse(config), origin),
                                           asking(owner), device, dtype)) {}

std::vector<std::string> ExternalModel::convert(
    const std::string& mode, uint64_t seed, const std::optional<std::string>& reference_numerics,
    const OptionalTensor& draft_vocabulary) {
  std::vector<std::string> notes;
  ConvertOptions options{.seed = seed, .reference_numerics = reference_numerics};
  options.draft_vocabulary = draft_vocabulary.value_or(at::Tensor());
  options.on_note = [&](const std::string& note) { notes.push_back(note); };
  speculative::convert(*base_, ModeRequest::from_json(Json::parse(mode)), options);
  return notes;
}

void ExternalModel::rebuild(const CheckpointMetadata& record, const std::string& origin,
                            size_t stored_bytes) {
  outrider::rebuild(*base_, record, stored_bytes, origin);
}

std::vector<Attached> ExternalModel::drafts() const {
  std::vector<Attached> drafts;
  for (const auto& attached : base_->speculative_state()) drafts.emplace_back(attached, base_);
  return drafts;
}

CheckpointMetadata ExternalModel::record() const { return record_of(*base_); }

void save_file(const CheckpointMetadata& record, const NamedTensors& tensors,
               const std::string& file) {
  write_recorded({record, TensorMap(tensors.begin(), tensors.end())}, file);
}

std::pair<CheckpointMetadata, NamedTensors> read_stored(
    const std::string& path, const std::optional<std::string>& reference_numerics) {
  auto [record, tensors] = read_recorded(path, reference_numerics);
  NamedTensors owned;  // what is read may be a view of a file
  for (auto& [name, tensor] : tensors) owned[name] = tensor.clone();
  return {std::move(record), std::move(owned)};
}

}  // namespace outrider::python
