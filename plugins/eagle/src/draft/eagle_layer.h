#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <vector>

#include "config/eagle_schema.h"
#include "outrider/model/sequence_part.h"
#include "outrider/nn/decoder_layer.h"
#include "outrider/ops/attention.h"

namespace outrider::eagle {

/// The part of a training-time-test pass that one draft layer shares between steps.
struct StepCache {
  // Keys and values of step i, whose first row is position i. Of shared sequences this process's
  // heads of every process's rows.
  std::vector<ops::DiagonalKeys> steps;
};

/// What a step needs beside its rows. Step k works on the positions k … S-2: all of its tensors are
/// prefixes of its predecessors', so that lags and diagonals are slices.
struct StepContext {
  at::Tensor embeddings;                   // [B,n,h], of the tokens after the positions
  nn::CosSin rotary;                       // for these n positions
  at::Tensor key_mask;                     // [B,n] bool or undefined
  std::vector<at::Tensor> diagonal_masks;  // per earlier step and this one, [B,n] or undefined
  std::optional<SequencePart> part;        // of sequences that are shared: then without masks
  std::optional<ops::Documents> documents;
  ops::Recompute recompute = ops::Recompute::kNothing;
};

/// One decoder layer of the draft. The first layer of EAGLE-3 attends to [norm(e) ; norm(g)] and
/// has projections of 2h inputs, and with norm_before_residual adds its attention to norm(g); every
/// other layer is Llama's.
class EagleLayer : public torch::nn::Module {
 public:
  EagleLayer(const Architecture& architecture, bool reads_embeddings, bool norms_hidden_twice,
             at::TensorOptions options);

  /// hidden [B,n,h] → [B,n,h]; appends this step's keys to the cache.
  at::Tensor forward(const at::Tensor& hidden, const StepContext& context, StepCache& cache) const;
  /// The same for the new rows of a pass in decoding; `layer`: this one's number in the cache.
  at::Tensor forward(const at::Tensor& hidden, const at::Tensor& embeddings,
                     const nn::CosSin& rotary, nn::CachedPass& pass, int64_t layer) const;

  // For a fit of its weights. hidden and embeddings [B,n,h]; rows of positions 0 … n-1.
  /// What query, key and value read: [B,n,2h or h].
  at::Tensor projections_read(const at::Tensor& hidden, const at::Tensor& embeddings) const;
  /// What the output projection reads, [B,n,heads·D], and what its product is added to, [B,n,h].
  struct Attended {
    at::Tensor rows, carried;
  };
  Attended attended(const at::Tensor& hidden, const at::Tensor& embeddings,
                    const nn::CosSin& rotary) const;
  /// What the MLP reads, and is added to: [B,n,h].
  at::Tensor residual(const Attended& attended) const;
  /// What the MLP's last product reads: [B,n,intermediate size].
  at::Tensor down_reads(const at::Tensor& residual) const;

  /// Whether rows like these [B,n,h] go through it in few kernels.
  bool takes_few_rows(const at::Tensor& rows) const;

 private:
  std::optional<nn::FewRowsLayer> few_rows_layer() const;
  at::Tensor carried_by(const at::Tensor& hidden, const ops::LinearInput& input) const;
  at::Tensor after_attention(const at::Tensor& hidden, const ops::LinearInput& input,
                             const at::Tensor& attended, ops::Recompute recompute) const;
  at::Tensor attend(const nn::QueryKeyValue& qkv, const StepContext& context,
                    StepCache& cache) const;
  at::Tensor attend_shared(const nn::QueryKeyValue& rows, const StepContext& context,
                           StepCache& cache) const;
  ops::LinearInput attention_input(const at::Tensor& hidden, const at::Tensor& embeddings,
                                   ops::Recompute recompute) const;
  ops::LinearInput mlp_input(const at::Tensor& residual, ops::Recompute recompute) const;

  bool norms_hidden_twice_, adds_to_normed_;
  double eps_;
  std::shared_ptr<nn::Attention> self_attn_;
  std::shared_ptr<nn::SwiGluMlp> mlp_;
  std::shared_ptr<nn::RmsNorm> input_layernorm_, hidden_norm_, post_attention_layernorm_;
};

}  // namespace outrider::eagle
