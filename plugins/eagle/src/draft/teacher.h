#pragma once

#include "outrider/model/base_outputs.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider::eagle {

/// The base's own predictions as targets, over the tokens that the draft knows. Rows are indices
/// [N] int64 into the batch's B·S positions. No gradient goes through.
class Teacher {
 public:
  /// target_ids: the draft's tokens [Vd], or undefined for the whole vocabulary.
  Teacher(const BaseOutputs& base, at::Tensor target_ids);

  ops::TeacherTargets targets(const at::Tensor& rows) const;

  /// What a draft that knows a part of the vocabulary can hit of the base's own choices: 1 where
  /// the base's argmax is among its tokens, [N]. Makes the targets' overlap count alike.
  at::Tensor measure_whole_vocabulary(const at::Tensor& rows, ops::TeacherTargets& targets) const;

 private:
  at::Tensor hidden_, whole_weight_, weight_;
  at::Tensor logits_;  // [B·S,V] of a stored pass, or undefined
  at::Tensor target_ids_;
};

/// Zero, with the gradient that the cross-entropy has with respect to a base that is trained, by
/// way of the targets that the base sets. ModelOpt 0.42 does not detach them. target_ids and rows
/// as for Teacher; student_logits [T,N,Vd], row_weights [T,N]: unlike the loss itself not in
/// chunks.
at::Tensor pull_on_targets(const BaseOutputs& base, const at::Tensor& target_ids,
                           const at::Tensor& rows, const at::Tensor& student_logits,
                           const at::Tensor& row_weights);

}  // namespace outrider::eagle
