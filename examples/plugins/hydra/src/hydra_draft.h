#pragma once

#include <memory>
#include <vector>

#include "hydra/hydra_config.h"
#include "outrider/loss/trained_rows.h"
#include "outrider/model/base_info.h"
#include "outrider/model/draft.h"
#include "outrider/nn/linear.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace hydra {

/// A residual block, res(x) + silu(Wx + b), with res a linear layer where the block is wider at its
/// input than at its output, and else the identity.
class ResidualBlock : public torch::nn::Module {
 public:
  ResidualBlock(int64_t in, int64_t out, at::TensorOptions options);

  /// x [...,in] → [...,out].
  at::Tensor forward(const at::Tensor& x) const;

 private:
  std::shared_ptr<outrider::nn::Linear> linear_, residual_;
};

/// Hydra (arXiv 2402.05109, section 3): head i predicts the token i+2 positions after the base's
/// hidden state from that state and the embeddings of the i+1 tokens between. Parameters are named
/// as in the original's HydraMLP with grounded heads: hydra_mlp.i.j.{linear,res_connection},
/// hydra_lm_head.i.
class HydraDraft : public outrider::Draft {
 public:
  HydraDraft(const outrider::BaseInfo& base, const HydraConfig& config);

  outrider::HiddenStateRequest hidden_states_needed() const override;
  outrider::DraftLoss loss(const outrider::BaseOutputs& base,
                           const outrider::TrainBatch& batch) override;
  /// The heads' output matrices start as copies of the base's.
  void initialize(const outrider::BaseView& base) override;
  std::unique_ptr<outrider::Drafter> make_drafter() override;

  int64_t head_count() const { return static_cast<int64_t>(heads_.size()); }
  /// What head i says, [...,V], of the base's state and the i+1 embeddings after it, [...,(i+2)h].
  at::Tensor head_logits(size_t head, at::Tensor x) const;

 private:
  struct Head {
    std::vector<std::shared_ptr<ResidualBlock>> blocks;
    std::shared_ptr<outrider::nn::Linear> projection;
  };

  at::Tensor head_states(size_t head, const outrider::BaseOutputs& base,
                         const at::Tensor& rows) const;
  outrider::ops::StreamingLoss head_loss(size_t head, const outrider::BaseOutputs& base,
                                         const outrider::loss::ShiftedTargets& targets,
                                         const at::Tensor& total) const;
  void record_logits(size_t head, const outrider::BaseOutputs& base,
                     const outrider::TensorRecorder& recorder) const;

  HydraConfig config_;
  std::vector<Head> heads_;
};

}  // namespace hydra
