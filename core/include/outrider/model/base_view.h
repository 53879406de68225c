#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "outrider/api.h"
#include "outrider/model/lm_head.h"
#include "outrider/model/model_config.h"

namespace outrider {

/// What drafts, formats and modes may know of a base: a native CausalLM, or a module that lives
/// elsewhere.
class OUTRIDER_API BaseView {
 public:
  virtual ~BaseView();

  virtual const ModelConfig& config() const = 0;
  virtual at::Device device() const = 0;
  /// The type of hidden states and drafts.
  virtual at::ScalarType dtype() const = 0;
  /// Rows of the head and of the embedding.
  virtual const LmHead& head() const = 0;
  /// The norm before the head, of [...,h].
  virtual at::Tensor final_norm(const at::Tensor& hidden) const = 0;
  /// A parameter by its Hugging Face name ("model.norm.weight"); undefined where there is none.
  virtual at::Tensor parameter(const std::string& hugging_face_name) const = 0;
};

}  // namespace outrider
