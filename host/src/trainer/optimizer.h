#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/ops/adamw.h"

namespace outrider {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.0;
  double max_grad_norm = 0.0;   // 0: gradients are not clipped
  bool decays_vectors = false;  // norms and biases too, as torch.optim.AdamW by itself
  // Gradients are float32 from the beginning; else on a GPU only once several have been added up.
  bool widens_gradients = false;
};

/// AdamW as torch.optim.AdamW computes it ("Decoupled Weight Decay Regularization",
/// arXiv:1711.05101), all of it in float32: parameters of a lower precision have a float32 master
/// that is updated and then rounded into them. Weight decay spares vectors (norms and biases)
/// unless asked, as the Hugging Face Trainer's does. Nothing here reads a tensor's value on the
/// host.
class OUTRIDER_API AdamW {
 public:
  struct Parameter {
    std::string name;
    at::Tensor tensor;
    bool is_rounded_when_saved = false;  // its value is then part of the state
  };
  AdamW(const std::vector<Parameter>& parameters, const AdamWOptions& options);

  /// Takes the gradient of parameter `index`, if it has one, adding to what earlier calls since the
  /// last step took. Call when a backward pass has completed it.
  void collect_gradient(size_t index) { add_gradient(index, take_gradient(index)); }
  /// The two halves of that: a parameter's gradient, which it then has no more, undefined where
  /// there is none; and adding one, which may become the optimizer's.
  at::Tensor take_gradient(size_t index);
  void add_gradient(size_t index, const at::Tensor& gradient);
  /// All of them: after a backward pass.
  void collect_gradients();

  /// The collected ones, by parameter, undefined where there is none; shares storage.
  std::vector<at::Tensor> gradients() const;
  const at::Tensor& gradient(size_t index) const { return slots_[index].tensors.gradient; }

  /// One update by the collected gradients, which are then forgotten. Parameters without a gradient
  /// stay as they are. Returns the gradients' total norm before clipping, a 0-dim float32 tensor.
  at::Tensor step(double learning_rate);

  /// Takes the parameters as they are now, where someone else has changed them before the first
  /// step.
  void take_up_parameters();

  /// The state under "master.NAME" (of parameters with less precision, here or when saved),
  /// "exp_avg.NAME", "exp_avg_sq.NAME" and "step.NAME"; shares storage with the optimizer.
  TensorMap state() const;
  /// Throws kIncompatibleCheckpoint, listing every missing or mis-shaped tensor.
  void load_state(const TensorMap& state);

 private:
  struct Slot {
    std::string name;
    ops::AdamWTensors tensors;
    bool decays, has_stored_master;
  };
  std::vector<at::Tensor> defined_gradients() const;
  at::Tensor gradient_norm() const;
  void update(double learning_rate, const at::Tensor& gradient_scale, bool decays);

  std::vector<Slot> slots_;
  AdamWOptions options_;
};

}  // namespace outrider
