#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "eagle_draft.h"
#include "outrider/model/draft_fit.h"
#include "outrider/ops/ridge_regression.h"

namespace outrider::eagle {

/// EAGLE-3's layer by ridge regressions, one product after the other, each on what those before it
/// give. fc: to the base's last state, which is what the draft's own outputs stand for in later
/// steps. Query, key and value: of that and the next token's embedding, to those of the base's last
/// layer at the next position. The output projection: to what that layer reads there. The MLP's
/// last product: to what is left of the base's last state there. The head and the norm before it
/// are the base's already. So a draft begins as a forecast of the next state, where copies of the
/// base's layer alone repeat the present one.
class LayerFit : public DraftFit {
 public:
  /// Throws kInvalidArgument where the draft is not as EagleDraft::initialize() left it.
  LayerFit(EagleDraft& draft, const BaseView& base);

  HiddenStateRequest hidden_states_needed() const override;
  void add(const BaseOutputs& base, const TrainBatch& batch) override;
  void finish() override;

 private:
  // n = S-1 positions and what follows each, [1,n,…].
  struct Sequence {
    std::vector<at::Tensor> read;  // the layers that fc reads
    at::Tensor state;              // the base's last
    at::Tensor embeddings;         // of the next tokens
    at::Tensor next_input;         // at the next position: what the base's last layer reads
    at::Tensor next_state;         // and what it gives
  };
  // Rows that a product reads, and what it is to give, its bias aside.
  struct Example {
    at::Tensor read, wanted;
  };
  using Examples = std::function<Example(const Sequence&)>;

  /// Products that read the same, what they are to give side by side.
  void fit(const std::vector<std::string>& products, const Examples& examples) const;
  at::Tensor without_bias(const at::Tensor& wanted, const std::string& product) const;
  at::Tensor start(const Sequence& sequence) const;
  EagleLayer::Attended attended(const Sequence& sequence) const;
  void fit_projections();

  EagleDraft& draft_;
  const EagleLayer& layer_;
  std::vector<int64_t> layers_;  // that fc reads
  int64_t before_last_;          // the layer whose output the base's last one reads
  std::vector<Sequence> sequences_;
};

}  // namespace outrider::eagle
