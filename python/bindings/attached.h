#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "outrider/model/external_base.h"

namespace outrider::python {

using OptionalTensor = std::optional<at::Tensor>;

/// BaseOutputs as Python fills it; what was not asked for is None.
struct PassOutputs {
  OptionalTensor input_embeddings, last_hidden, last_hidden_prenorm;
  std::map<int64_t, at::Tensor> layer_outputs;
  OptionalTensor embedding_weight, head_weight;
  bool carries_gradient = false;

  BaseOutputs outputs() const;
};

/// TrainBatch as Python fills it.
struct Batch {
  OptionalTensor input_ids, attention_mask, position_ids, loss_mask, labels;
  std::map<std::string, at::Tensor> extras;

  /// With a key mask unless all padding is on the right and nothing at padding counts.
  TrainBatch batch(const HiddenStateRequest& request) const;
};

/// A draft that is attached to a base in Python.
class Attached {
 public:
  Attached(AttachedDraft attached, std::shared_ptr<const ExternalBase> base)
      : attached_(std::move(attached)), base_(std::move(base)) {}

  /// The same draft, of `stored_bytes` in all, made again: it may stand for other tensors at the
  /// same time.
  Attached copy(size_t stored_bytes) const;

  std::string mode() const { return attached_.state.mode; }
  std::string attribute() const { return attached_.attribute; }
  bool freezes_base() const { return has(BaseEdit::kFreezeParameters); }
  bool drops_layers() const { return has(BaseEdit::kDropDecoderLayers); }
  bool labels_stand_alone() const { return attached_.labels_stand_alone; }

  /// HiddenStateRequest as a dictionary.
  pybind11::dict request() const;
  /// (name, tensor, is a parameter) of each, in the order that bind() takes.
  std::vector<std::tuple<std::string, at::Tensor, bool>> tensors() const;
  void release();
  void bind(const std::vector<at::Tensor>& tensors);
  /// The loss, the steps' names and [4, steps]: their losses, accuracies, overlaps and counts.
  std::tuple<at::Tensor, std::vector<std::string>, at::Tensor> loss(const PassOutputs& base,
                                                                    const Batch& batch,
                                                                    bool training);

 private:
  bool has(BaseEdit edit) const;

  AttachedDraft attached_;
  std::shared_ptr<const ExternalBase> base_;
};

at::Tensor lm_loss(const PassOutputs& base, const Batch& batch, bool labels_stand_alone);

}  // namespace outrider::python
