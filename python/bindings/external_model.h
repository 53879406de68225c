#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attached.h"
#include "outrider/checkpoint/metadata.h"
#include "outrider/model/external_base.h"

namespace outrider::python {

/// A base in Python with the drafts that are attached to it. Configs go through as JSON text.
class ExternalModel {
 public:
  /// `owner` has head(), final_norm(hidden) and parameter(name), as ExternalBase::Owner.
  ExternalModel(const std::string& config, const std::string& origin, pybind11::object owner,
                at::Device device, at::ScalarType dtype);

  /// Attaches what a mode request asks for; returns notes for the user.
  std::vector<std::string> convert(const std::string& mode, uint64_t seed,
                                   const std::optional<std::string>& reference_numerics,
                                   const OptionalTensor& draft_vocabulary);
  void rebuild(const CheckpointMetadata& record, const std::string& origin, size_t stored_bytes);
  std::vector<Attached> drafts() const;
  CheckpointMetadata record() const;

 private:
  std::shared_ptr<ExternalBase> base_;
};

using NamedTensors = std::map<std::string, at::Tensor>;

/// One file with record and tensors, as `outrider save` writes it.
void save_file(const CheckpointMetadata& record, const NamedTensors& tensors,
               const std::string& file);
/// Record and tensors of such a file, of a converted folder, or of ModelOpt's counterparts.
std::pair<CheckpointMetadata, NamedTensors> read_stored(
    const std::string& path, const std::optional<std::string>& reference_numerics);

}  // namespace outrider::python
