#pragma once

#include <ATen/core/Tensor.h>

#include "outrider/model/base_outputs.h"

namespace outrider::eagle {

/// Zero, with the gradient that the cross-entropy has with respect to a base that is trained, by
/// way of the targets that the base sets. ModelOpt 0.42 does not detach them. target_ids and rows
/// as for loss::Teacher; student_logits [T,N,Vd], row_weights [T,N]: unlike the loss itself not in
/// chunks.
at::Tensor pull_on_targets(const BaseOutputs& base, const at::Tensor& target_ids,
                           const at::Tensor& rows, const at::Tensor& student_logits,
                           const at::Tensor& row_weights);

}  // namespace outrider::eagle
