// The smallest useful plugin: a draft of one linear layer and one operator.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "outrider/ops/operator_library.h"
#include "outrider/sdk/plugin.h"
#include "outrider/sdk/simple_mode.h"

namespace {

struct TinyConfig {
  int64_t rows = 2;
};

const outrider::StructSchema<TinyConfig>& tiny_schema() {
  static const auto& schema = *new outrider::StructSchema<TinyConfig>(
      outrider::StructSchema<TinyConfig>("TinyConfig")
          .field("rows", &TinyConfig::rows, "Rows of the draft's matrix.", {.minimum = 1}));
  return schema;
}

/// 3x, through a node of the autograd graph whose code is the plugin's.
struct Tripled : torch::autograd::Function<Tripled> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x) {
    return x * 3;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 torch::autograd::variable_list gradient) {
    return {gradient[0] * 3};
  }
};

class TinyDraft final : public outrider::Draft {
 public:
  TinyDraft(const outrider::BaseInfo& base, const TinyConfig& config)
      : weight_(register_parameter("weight", at::ones({config.rows, base.hidden_size}))) {}

  outrider::HiddenStateRequest hidden_states_needed() const override { return {}; }

  outrider::DraftLoss loss(const outrider::BaseOutputs& base,
                           const outrider::TrainBatch&) override {
    return {Tripled::apply(at::matmul(base.last_hidden, weight_.t()).sum()), {}};
  }

 private:
  at::Tensor weight_;
};

at::Tensor twice(const at::Tensor& x) { return x * 2; }

void register_operators() {
  auto& library = outrider::define_operator_namespace("outrider_tiny");
  library.def("twice(Tensor x) -> Tensor");
  library.impl("twice", c10::DispatchKey::CompositeImplicitAutograd, TORCH_FN(twice));
}

}  // namespace

OUTRIDER_PLUGIN(registrar) {
  register_operators();
  registrar.add(std::make_unique<outrider::SimpleMode<TinyDraft, TinyConfig>>(
      "tiny", "One linear layer.", "tiny_module", tiny_schema(),
      std::vector<outrider::Preset>{{"TINY_FOUR", "Four rows.", {{"rows", 4}}}}));
}
