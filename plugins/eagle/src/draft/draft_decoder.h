#pragma once

#include <memory>
#include <vector>

#include "config/draft_settings.h"
#include "draft_input.h"
#include "eagle_layer.h"
#include "outrider/model/train_batch.h"
#include "outrider/nn/rotary_embedding.h"

namespace outrider::eagle {

/// The decoder layers of a draft, and the passes of training-time test through them.
class DraftDecoder {
 public:
  /// The parameters become the owner's.
  DraftDecoder(torch::nn::Module& owner, const DraftSettings& settings, at::TensorOptions options);

  HiddenStateRequest hidden_states_needed() const;

  /// Outputs before the final norm, of step k [B,S-1-k,h] for the positions k … S-2. A step starts
  /// from its predecessor's output, one position to the right: row c of every step is of the chain
  /// that began at position c. Of shared sequences the chains of one's own positions are right.
  std::vector<at::Tensor> run(const BaseOutputs& base, const TrainBatch& batch, int64_t steps);

  // In decoding:
  int64_t num_layers() const { return static_cast<int64_t>(layers_.size()); }
  /// The states [B,n,h] that rows of the base give to a first step.
  at::Tensor start(const BaseOutputs& base) const { return input_->start(base); }
  /// states [B,n,h] and the tokens [B,n] after them → outputs before the final norm [B,n,h]: of a
  /// first step, or of later ones whose states are outputs. The rows are added to the pass's cache.
  at::Tensor advance(const at::Tensor& states, const at::Tensor& tokens, const LmHead& head,
                     nn::CachedPass& pass);
  /// Whether such rows [B,n,h] go through all of it in few kernels, at any position.
  bool takes_few_rows(const at::Tensor& rows) const;

  // For a fit:
  const EagleLayer& layer(int64_t i) const { return *layers_[static_cast<size_t>(i)]; }
  at::Tensor embeddings(const BaseOutputs& base, const TrainBatch& batch) const;
  /// Of the positions 0 … n-1 of rows [1,n,h].
  nn::CosSin rotary(const at::Tensor& rows);

 private:
  struct Pass {
    const BaseOutputs& base;
    const TrainBatch& batch;
    nn::CosSin rotary;
    at::Tensor embeddings;  // [B,S,h] of the tokens
    int64_t length, steps;
  };
  ops::Recompute recompute_in(const Pass& pass, int64_t step) const;
  StepContext lagged_context(const Pass& pass, int64_t step) const;
  StepContext whole_context(const Pass& pass) const;
  at::Tensor run_layers(const at::Tensor& hidden, const StepContext& context,
                        std::vector<StepCache>& caches) const;
  std::vector<at::Tensor> run_lagged(at::Tensor hidden, const Pass& pass) const;
  std::vector<at::Tensor> run_mixed(at::Tensor hidden, const Pass& pass) const;
  at::Tensor shifted_left(const at::Tensor& x) const;
  at::Tensor shifted_right(const at::Tensor& x) const;

  nn::RotaryEmbedding rotary_;
  std::unique_ptr<DraftInput> input_;
  std::vector<std::shared_ptr<EagleLayer>> layers_;
  at::Tensor own_embeddings_;  // [V,h]; undefined where the base's are read
  bool mixes_, masks_padding_keys_, wraps_;
  int64_t products_per_row_;  // elements of the MLPs' gates and ups, of one row in one step
};

/// Rows [B,n,…] of the positions from `first` on, among `length` positions; zeros elsewhere.
at::Tensor at_positions(const at::Tensor& rows, int64_t first, int64_t length);

}  // namespace outrider::eagle
