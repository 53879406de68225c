#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/api.h"
#include "outrider/model/base_outputs.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider::loss {

/// The base's own predictions as targets, over the tokens that the draft knows: from the logits
/// that a stored pass holds, else through the base's head. Rows are indices [N] int64 into the
/// batch's B·S positions; what is predicted at a position is the token after it. No gradient goes
/// through.
class OUTRIDER_API Teacher {
 public:
  /// target_ids: the draft's tokens [Vd], or undefined for the whole vocabulary.
  explicit Teacher(const BaseOutputs& base, at::Tensor target_ids = {});

  ops::TeacherTargets targets(const at::Tensor& rows) const;

  /// What a draft that knows a part of the vocabulary can hit of the base's own choices: 1 where
  /// the base's argmax is among its tokens, [N]. Makes the targets' overlap count alike.
  at::Tensor measure_whole_vocabulary(const at::Tensor& rows, ops::TeacherTargets& targets) const;

 private:
  at::Tensor hidden_, whole_weight_, weight_;
  at::Tensor logits_;  // [B·S,V] of a stored pass, or undefined
  at::Tensor target_ids_;
};

}  // namespace outrider::loss
